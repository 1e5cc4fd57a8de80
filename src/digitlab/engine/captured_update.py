"""Updates of a whole population recorded on a GPU and replayed, several in one call: all streams, all members at once.

S updates in a call, n images in a mini-batch; C, H, W, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.engine.aot_cache import Compiled
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.cuda_graph import CudaGraph, GraphCapture
from digitlab.engine.dropout_masks import Masks
from digitlab.engine.fused_arguments import Inputs
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_steps import Batch, Steps


@dataclass(slots=True, kw_only=True)
class CapturedSteps:
    """``steps`` of ``updates`` at a time, which change ``state`` in place.

    ``by_member`` makes of tensors, one a stream, the tensor (M, …) of what each member has.
    """

    updates: Steps
    state: Sequence[Tensor]
    normalise: nn.Module
    loss: StackedLoss
    masks: Masks | None
    by_member: Callable[[Sequence[Tensor]], Tensor]
    steps: int
    _call: Compiled | None = field(default=None, init=False)

    def record(self, chunks: Sequence[Chunk], graph_capture: GraphCapture) -> None:
        """Capture updates for mini-batches like those of ``chunks``, one per stream. Raises ``CudaGraphError``."""
        streams = [next(chunk.part(0, self.steps).blocks(self.steps, self.loss.encode)) for chunk in chunks]
        members = len(self.updates.stack.parameters[0])
        rates, ema_weight = torch.zeros(2, self.steps, members, dtype=torch.float64, device=streams[0][0].device)
        given = self._given(streams, 0, rates, ema_weight)
        self._call = CudaGraph(self._run_chunk, state=self.state, given=given, graph_capture=graph_capture)

    def run_chunk(self, chunk_io: ChunkIO, stop_signal: StopSignal) -> int:
        """Learn from mini-batches that fill whole calls; says from how many: after a signal from no further call's."""
        assert self._call is not None
        done = 0
        for streams in zip(*(chunk.blocks(self.steps, self.loss.encode) for chunk in chunk_io.chunks), strict=True):
            calls = slice(done, done + self.steps)
            given = self._given(streams, chunk_io.first + done, chunk_io.rates[calls], chunk_io.ema_weight[calls])
            size = streams[0][0].shape[1]
            logits, chunk_io.losses[calls] = self._call(given)
            chunk_io.logits[:, done * size : (done + self.steps) * size] = logits.flatten(1, 2)
            done += self.steps
            if stop_signal.received is not None:
                break
        return done

    def _given(
        self, streams: Sequence[tuple[Tensor, Tensor]], first: int, rates: Tensor, ema_weight: Tensor
    ) -> list[Tensor]:
        """What a call is given: pixels (streams, S, n, C, H, W), targets (streams, S, n, …), masks (M, S, n, …), …"""
        pixels, targets = (torch.stack(each) for each in zip(*streams, strict=True))
        masks = [] if self.masks is None else self.masks.of_steps(first, self.steps, pixels.shape[2])
        return Inputs(pixels, targets, masks, rates, ema_weight).tensors

    def _run_chunk(self, tensors: list[Tensor]) -> list[Tensor]:
        """Logits (M, S, n, K) and losses (S, M)."""
        given = Inputs.of(tensors)
        batches = [
            Batch(
                [self.normalise(stream) for stream in given.pixels[:, place]],
                self.by_member(given.targets[:, place].unbind()),
                [mask[:, place] for mask in given.masks],
            )
            for place in range(self.steps)
        ]
        logits = [
            self.updates(batch, given.rates[place], given.ema_weight[place]) for place, batch in enumerate(batches)
        ]
        losses = [self.loss(own, batch.targets).mean(1) for own, batch in zip(logits, batches, strict=True)]
        return [torch.stack(logits, 1), torch.stack(losses)]
