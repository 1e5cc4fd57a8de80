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
from digitlab.engine.chunk_io import Lesson
from digitlab.engine.cuda_graph import Recorder, Replay
from digitlab.engine.dropout_masks import Masks
from digitlab.engine.fused_arguments import Given
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_steps import Batch, Steps


@dataclass(slots=True, kw_only=True)
class RecordedSteps:
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

    def record(self, chunks: Sequence[Chunk], recorder: Recorder) -> None:
        """Record for mini-batches like those of ``chunks``, one a stream; ``ReplayError`` where that can't be done."""
        streams = [next(chunk.part(0, self.steps).blocks(self.steps, self.loss.encode)) for chunk in chunks]
        members = len(self.updates.stack.parameters[0])
        rates, pull = torch.zeros(2, self.steps, members, dtype=torch.float64, device=streams[0][0].device)
        given = self._given(streams, 0, rates, pull)
        self._call = Replay(self._learn, state=self.state, given=given, recorder=recorder)

    def learn(self, lesson: Lesson, stop_signal: StopSignal) -> int:
        """Learn from mini-batches that fill whole calls; says from how many: after a signal from no further call's."""
        assert self._call is not None
        done = 0
        for streams in zip(*(chunk.blocks(self.steps, self.loss.encode) for chunk in lesson.chunks), strict=True):
            calls = slice(done, done + self.steps)
            given = self._given(streams, lesson.first + done, lesson.rates[calls], lesson.pull[calls])
            size = streams[0][0].shape[1]
            logits, lesson.losses[calls] = self._call(given)
            lesson.logits[:, done * size : (done + self.steps) * size] = logits.flatten(1, 2)
            done += self.steps
            if stop_signal.received is not None:
                break
        return done

    def _given(self, streams: Sequence[tuple[Tensor, Tensor]], first: int, rates: Tensor, pull: Tensor) -> list[Tensor]:
        """What a call is given: pixels (streams, S, n, C, H, W), targets (streams, S, n, …), masks (M, S, n, …), …"""
        pixels, targets = (torch.stack(each) for each in zip(*streams, strict=True))
        masks = [] if self.masks is None else self.masks.of_steps(first, self.steps, pixels.shape[2])
        return Given(pixels, targets, masks, rates, pull).tensors

    def _learn(self, tensors: list[Tensor]) -> list[Tensor]:
        """Logits (M, S, n, K) and losses (S, M)."""
        given = Given.of(tensors)
        batches = [
            Batch(
                [self.normalise(stream) for stream in given.pixels[:, place]],
                self.by_member(given.targets[:, place].unbind()),
                [mask[:, place] for mask in given.masks],
            )
            for place in range(self.steps)
        ]
        logits = [self.updates(batch, given.rates[place], given.pull[place]) for place, batch in enumerate(batches)]
        losses = [self.loss(own, batch.targets).mean(1) for own, batch in zip(logits, batches, strict=True)]
        return [torch.stack(logits, 1), torch.stack(losses)]
