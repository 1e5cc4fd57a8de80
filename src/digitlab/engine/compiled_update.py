"""``compile=true`` in a population: several updates of one stream's members in a call, one stream after the other.

All streams use the same library, and so do the members that remain after others have left: the compiled function takes
any number of members.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.engine.aot_cache import CompiledCall, compile_or_load
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.dropout_masks import DropoutMasks
from digitlab.engine.fused_arguments import Inputs, Outputs, flatten_arguments, tensors_in
from digitlab.engine.fused_update import MemberSettings, MemberState, SharedState, StackedUpdateFunction

# The compiler sees this many members. With fewer than two it would specialise the library to that number.
_EXAMPLE_MEMBERS = 16


class CompiledStreams:
    """Makes ``steps`` updates of ``update_function`` at a time; ``members`` holds views of the runner's own tensors.

    ``stream_sizes`` says how many members each stream has; ``encode`` turns labels into targets.
    """

    def __init__(
        self,
        update_function: StackedUpdateFunction,
        members: MemberState,
        shared: SharedState,
        *,
        steps: int,
        stream_sizes: Sequence[int],
        masks: DropoutMasks | None,
        encode: Callable[[Tensor, int], Tensor],
    ) -> None:
        self.update_function, self.members, self.steps = update_function, members, steps
        self._shared, self._masks, self._encode = shared, masks, encode
        spans = [slice(end - size, end) for end, size in zip(accumulate(stream_sizes), stream_sizes, strict=True)]
        # A stream's members are adjacent, so their rows are views and a call changes the runner's tensors in place.
        self._streams = [(span, [tensor[span] for tensor in tensors_in(members)]) for span in spans]
        self.call: CompiledCall | None = None

    def load(self, chunk: Chunk, *, may_compile: bool) -> None:
        """Load the library for mini-batches like those of ``chunk``; compile it if no earlier run has.

        Raises ``CompilerError`` if it cannot be compiled, or if it does not exist and ``may_compile`` is false.
        """
        # Only shapes and dtypes of the examples matter, and whatever the function reads while it is traced.
        pixels, targets = next(chunk.part(0, self.steps).blocks(self.steps, self._encode))
        drawn = self._masks.draw_steps(0, self.steps, pixels.shape[1]) if self._masks else []
        members = _map_tensors(self.members, _repeat_first_member)
        masks = [_repeat_first_member(mask) for mask in drawn]

        def examples(steps: int) -> list[Tensor]:
            first = [mask[:, :steps].contiguous() for mask in masks]
            # The two must be distinct tensors: the tracer would take one tensor for one argument.
            rates, ema_weight = (
                torch.zeros(_EXAMPLE_MEMBERS, steps, dtype=torch.float64, device=pixels.device) for _ in range(2)
            )
            inputs = Inputs(pixels[:steps], targets[:steps], first, rates, ema_weight)
            return [*tensors_in(members), *self._shared, *inputs.tensors]

        # Everything that has a row for each member may have another number of rows in a later call.
        dynamic = [True] * len(tensors_in(members)) + [False] * len(self._shared)
        dynamic += [False, False] + [True] * len(masks) + [True, True]
        self.call = compile_or_load(
            lambda steps: flatten_arguments(self.update_function.build(steps), (members, self._shared)), examples,
            steps=self.steps, may_compile=may_compile, dynamic=dynamic,
        )  # fmt: skip

    def select_settings(self, members: Tensor) -> MemberSettings:
        """The settings of ``members``, int64 indices, with the same structure, so that the library fits them."""
        settings: MemberSettings = _map_tensors(self.members.settings, lambda tensor: tensor.index_select(0, members))
        return settings

    def run_chunk(self, chunk_io: ChunkIO, stop_signal: StopSignal) -> int:
        """Train on mini-batches that fill whole calls; return the number of updates made.

        After a signal it stops at the end of the current call, when all streams have made the same updates.
        """
        assert self.call is not None
        steps, done = self.steps, 0
        blocks = zip(*(chunk.blocks(steps, self._encode) for chunk in chunk_io.chunks), strict=True)
        rates, ema_weight = (_split_by_execution(table, steps) for table in (chunk_io.rates, chunk_io.ema_weight))
        for number, streams in enumerate(blocks):
            size = streams[0][0].shape[1]
            # Masks of all members at once; each stream takes its rows.
            masks = self._masks.draw_steps(chunk_io.first + done, steps, size) if self._masks else []
            images = slice(done * size, (done + steps) * size)
            # One call per stream. Its members share pixels, so that the first layer is one matrix product.
            for (span, state), (pixels, targets) in zip(self._streams, streams, strict=True):
                inputs = Inputs(
                    pixels, targets, [mask[span] for mask in masks], rates[number, span], ema_weight[number, span]
                )
                # Each call advances the common step counter, so it is set back for the next stream.
                self._shared.step.fill_(chunk_io.first + done)
                outputs = Outputs(*self.call([*state, *self._shared, *inputs.tensors]))
                chunk_io.logits[span, images] = outputs.logits.flatten(1, 2)
                chunk_io.losses[done : done + steps, span] = outputs.losses.T
            done += steps
            if stop_signal.received is not None:
                break
        return done


def _map_tensors(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map_only(Tensor, function, tree)


def _repeat_first_member(rows: Tensor) -> Tensor:
    """The first row of (M, ...), repeated as often as the compiler needs members."""
    return rows[:1].expand(_EXAMPLE_MEMBERS, *rows.shape[1:]).contiguous()


def _split_by_execution(table: Tensor, steps: int) -> Tensor:
    """Reshape (B, M), B a multiple of ``steps``, to one row per call: (B / S, M, S)."""
    return table.view(-1, steps, table.shape[1]).mT.contiguous()
