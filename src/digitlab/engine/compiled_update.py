"""``compile=true`` in a population: several updates of a stream's members in one call, one stream after the other.

All streams have one library, and so has whoever is left of them later: how many members a call is for is free.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.engine.aot_cache import Compiled, compiled
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.dropout_masks import Masks
from digitlab.engine.fused_arguments import Inputs, Outputs, flat, tensors_in
from digitlab.engine.fused_update import Numbers, Program, Rows, Shared

# Members that a library is made with; fewer than two would be taken for what it always has.
_EXAMPLES = 16


class CompiledStreams:
    """``steps`` updates of ``program`` at a time, of the members whose ``rows`` the learner's stack has, too.

    ``stream_sizes`` says how many members each stream has; ``encode`` makes targets of labels.
    """

    def __init__(
        self,
        program: Program,
        rows: Rows,
        shared: Shared,
        *,
        steps: int,
        stream_sizes: Sequence[int],
        masks: Masks | None,
        encode: Callable[[Tensor, int], Tensor],
    ) -> None:
        self.program, self.rows, self.steps = program, rows, steps
        self._shared, self._masks, self._encode = shared, masks, encode
        spans = [slice(end - size, end) for end, size in zip(accumulate(stream_sizes), stream_sizes, strict=True)]
        self._streams = [(span, [tensor[span] for tensor in tensors_in(rows)]) for span in spans]
        self.call: Compiled | None = None

    def find(self, chunk: Chunk, *, make: bool) -> None:
        """Find the library for mini-batches like those of ``chunk``, or make it where no earlier run has.

        Raises ``CompilerError`` for what can't be compiled, and without ``make`` where there is none.
        """
        pixels, targets = next(chunk.part(0, self.steps).blocks(self.steps, self._encode))
        drawn = self._masks.of_steps(0, self.steps, pixels.shape[1]) if self._masks else []
        rows = _map(self.rows, _repeated)
        masks = [_repeated(mask) for mask in drawn]

        def examples(steps: int) -> list[Tensor]:
            first = [mask[:, :steps].contiguous() for mask in masks]
            # Two tensors: one would be traced as one argument.
            rates, ema_weight = (
                torch.zeros(_EXAMPLES, steps, dtype=torch.float64, device=pixels.device) for _ in range(2)
            )
            given = Inputs(pixels[:steps], targets[:steps], first, rates, ema_weight)
            return [*tensors_in(rows), *self._shared, *given.tensors]

        growing = [True] * len(tensors_in(rows)) + [False] * len(self._shared)
        growing += [False, False] + [True] * len(masks) + [True, True]
        self.call = compiled(
            lambda steps: flat(self.program.function(steps), (rows, self._shared)), examples,
            steps=self.steps, make=make, growing=growing,
        )  # fmt: skip

    def numbers_of(self, members: Tensor) -> Numbers:
        """The numbers of those ``members``, int64, in the form in which a call takes them."""
        numbers: Numbers = _map(self.rows.numbers, lambda tensor: tensor.index_select(0, members))
        return numbers

    def run_chunk(self, chunk_io: ChunkIO, stop_signal: StopSignal) -> int:
        """Learn from mini-batches that fill whole calls; says from how many: after a signal from no further call's."""
        assert self.call is not None
        steps, done = self.steps, 0
        blocks = zip(*(chunk.blocks(steps, self._encode) for chunk in chunk_io.chunks), strict=True)
        rates, ema_weight = (_by_call(table, steps) for table in (chunk_io.rates, chunk_io.ema_weight))
        for number, streams in enumerate(blocks):
            size = streams[0][0].shape[1]
            masks = self._masks.of_steps(chunk_io.first + done, steps, size) if self._masks else []
            images = slice(done * size, (done + steps) * size)
            for (span, state), (pixels, targets) in zip(self._streams, streams, strict=True):
                given = Inputs(
                    pixels, targets, [mask[span] for mask in masks], rates[number, span], ema_weight[number, span]
                )
                self._shared.step.fill_(chunk_io.first + done)
                taken = Outputs(*self.call([*state, *self._shared, *given.tensors]))
                chunk_io.logits[span, images] = taken.logits.flatten(1, 2)
                chunk_io.losses[done : done + steps, span] = taken.losses.T
            done += steps
            if stop_signal.received is not None:
                break
        return done


def _map(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map_only(Tensor, function, tree)


def _repeated(rows: Tensor) -> Tensor:
    """As many rows as a library is made with."""
    return rows[:1].expand(_EXAMPLES, *rows.shape[1:]).contiguous()


def _by_call(table: Tensor, steps: int) -> Tensor:
    """A table (B, M), of whole calls, in the form in which they take it: (B / S, M, S)."""
    return table.view(-1, steps, table.shape[1]).mT.contiguous()
