"""Several updates of a whole population, captured as one CUDA graph: all streams and all members at once.

``StackedRunner`` captures and replays it. S updates in a call, n images in a mini-batch; C, H, W; K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from digitlab.core.signals import StopSignal
from digitlab.engine.aot_cache import CompiledCall
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.cuda_graph import CudaGraph, GraphCapture
from digitlab.engine.dropout_masks import DropoutMasks
from digitlab.engine.fused_arguments import Inputs
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_update import StackedBatch, StackedUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedWork:
    """The work that a graph contains: ``steps`` updates of all members.

    ``stream_of``, int64 (M,), is the index of each member's stream. The graph holds this object, so it must refer
    neither to the graph nor to the runner. In a cycle of references, the stacked weights and the graph's memory would
    stay on the device until the garbage collector runs, although a smaller population already needs the room.
    """

    update: StackedUpdate
    normalise: nn.Module
    loss: StackedLoss
    stream_of: Tensor
    steps: int

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        """Make the updates for ``Inputs.tensors``; return logits (M, S, n, K) and losses (S, M)."""
        # A graph cannot read shapes or numbers at replay, so everything that changes between calls is a tensor of
        # ``inputs``:
        # pixels, targets, masks, learning rates and EMA weights.
        inputs = Inputs.from_tensors(tensors)
        batches = [
            StackedBatch(
                [self.normalise(stream) for stream in inputs.pixels[:, step]],
                # Each member has the targets of its stream.
                inputs.targets[:, step].index_select(0, self.stream_of),
                [mask[:, step] for mask in inputs.masks],
            )
            for step in range(self.steps)
        ]
        logits = [self.update(batch, inputs.rates[step], inputs.ema_weight[step]) for step, batch in enumerate(batches)]
        # The losses are computed within the graph as well: outside, each would be another launch.
        losses = [self.loss(own, batch.targets).mean(1) for own, batch in zip(logits, batches, strict=True)]
        return [torch.stack(logits, 1), torch.stack(losses)]


@dataclass(slots=True, kw_only=True)
class CapturedSteps:
    """Makes updates by replaying a graph of ``work``, which changes ``state`` in place."""

    work: CapturedWork
    state: Sequence[Tensor]
    masks: DropoutMasks | None
    _call: CompiledCall | None = field(default=None, init=False)

    @property
    def steps(self) -> int:
        """S, the number of updates in a call."""
        return self.work.steps

    def capture(self, chunk_io: ChunkIO, graph_capture: GraphCapture) -> None:
        """Capture updates for mini-batches like those of ``chunk_io``, at least S per stream.

        The trial replay makes the first S updates of ``chunk_io`` and undoes them. Raises ``CudaGraphError``.
        """
        steps, encode = self.steps, self.work.loss.encode
        # The blocks are real data. With zeros, ReLUs could be dead and a wrong replay would not show.
        streams = [next(chunk.part(0, steps).blocks(steps, encode)) for chunk in chunk_io.chunks]
        inputs = self._arguments(streams, chunk_io.first, chunk_io.rates[:steps], chunk_io.ema_weight[:steps])
        self._call = CudaGraph(self.work, state=self.state, inputs=inputs, graph_capture=graph_capture)

    def run_chunk(self, chunk_io: ChunkIO, stop_signal: StopSignal) -> int:
        """Train on mini-batches that fill whole calls; return the number of updates made.

        After a signal it stops at the end of the current call, so that the position is always between two calls.
        """
        assert self._call is not None
        done = 0
        # Augmentation draws with a generator of its own and runs here, outside of the graph.
        blocks = (chunk.blocks(self.steps, self.work.loss.encode) for chunk in chunk_io.chunks)
        for streams in zip(*blocks, strict=True):
            in_call = slice(done, done + self.steps)
            inputs = self._arguments(
                streams, chunk_io.first + done, chunk_io.rates[in_call], chunk_io.ema_weight[in_call]
            )
            size = streams[0][0].shape[1]
            # Copying the results on the device does not make the host wait, so the next call is queued at once.
            logits, chunk_io.losses[in_call] = self._call(inputs)
            chunk_io.logits[:, done * size : (done + self.steps) * size] = logits.flatten(1, 2)
            done += self.steps
            if stop_signal.received is not None:
                break
        return done

    def _arguments(
        self, streams: Sequence[tuple[Tensor, Tensor]], first: int, rates: Tensor, ema_weight: Tensor
    ) -> list[Tensor]:
        """The inputs of a call whose first mini-batch is number ``first`` of the run.

        Pixels (streams, S, n, C, H, W), targets (streams, S, n, ...), masks (M, S, n, ...), rates and EMA weights
        (S, M). Streams keep their own dimension, because copying pixels for each member would cost memory bandwidth.
        """
        pixels, targets = (torch.stack(column) for column in zip(*streams, strict=True))
        masks = [] if self.masks is None else self.masks.draw_steps(first, self.steps, pixels.shape[2])
        return Inputs(pixels, targets, masks, rates, ema_weight).tensors
