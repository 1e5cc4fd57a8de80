"""Runs the updates of a chunk in a solo run, one mini-batch at a time or several in a fused call.

The classifier calls it and counts the results; ``TrainStep`` and ``FusedUpdates`` make the updates. It rolls back
updates that are not finite. n images, C, H, W; K classes.
"""

import math
import time
from collections.abc import Sequence

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.device import as_numbers
from digitlab.engine.eager import TrainStep
from digitlab.engine.fused_execution import FusedUpdates, Part
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.rollback import run_chunk_safely

Losses = list[Tensor | float]


class ChunkRunner:
    """Runs chunks with ``fused``, if given, and ``step``; it advances the position of the plan of ``spec``.

    After a signal it stops within the chunk if this process is alone. Several processes stop together, at the end of
    the chunk, or some would wait for the others for ever.
    """

    def __init__(
        self,
        spec: MemberSpec,
        *,
        step: TrainStep,
        fused: FusedUpdates | None,
        strategy: Strategy,
        stop_signal: StopSignal,
    ) -> None:
        self.step, self._fused = step, fused
        self._spec, self._position = spec, spec.plan.position
        self._strategy, self._stop_signal = strategy, stop_signal
        self._alone = spec.plan.chunks.world_size == 1
        self._compile_seconds = 0.0

    def take_compile_seconds(self) -> float:
        """Return the seconds that were spent on compiling since the last call; they are no training time."""
        seconds, self._compile_seconds = self._compile_seconds, 0.0
        return seconds

    def release(self) -> None:
        """Free compiled updates and CUDA graphs, whose memory the test and later runs of the process need."""
        self._fused = None

    def run_chunk(self, chunk: Chunk) -> tuple[Tensor, list[float]]:
        """Return the logits (all images of the chunk, K) and the loss of each mini-batch; fewer losses after a signal.

        Raises ``RunError`` if a loss, a gradient or the updated weights are not finite; the weights are then those
        before that update.
        """

        def run(check_each: bool) -> tuple[Tensor, list[float]]:
            logits, losses = self._run_chunk(chunk, check_each=check_each)
            return logits, as_numbers(losses)

        return run_chunk_safely(
            run, finite=lambda results: self._finite(results[1]), state=self.step, position=self._position
        )

    def _run_chunk(self, chunk: Chunk, *, check_each: bool = False) -> tuple[Tensor, Losses]:
        """With ``check_each`` the state is checked after each mini-batch or fused call."""
        # The logits are copied into one tensor. If each mini-batch kept its own, these small tensors would fill the
        # gaps that freed images leave in memory, the next images would not fit there, and a chunk would touch hundreds
        # of fresh megabytes.
        like = self._spec.normalise.scale
        logits = like.new_empty(sum(chunk.sizes), chunk.classes)
        losses: Losses = []
        for begin, end, steps in self._parts(chunk):
            part = chunk.part(begin, end)
            rows = logits[sum(chunk.sizes[:begin]) :][: sum(part.sizes)]
            if steps == 0:
                losses += self._run_eagerly(part, rows, check_each=check_each)
            else:
                losses += self._run_fused(part, rows, steps, check_each=check_each)
            if self._stopped:
                break
        return logits, losses

    def _parts(self, chunk: Chunk) -> list[Part]:
        """The parts of ``chunk``, after the calls that they need are compiled and captured."""
        if self._fused is not None and self._fused.active:
            started_at = time.perf_counter()
            if not self._fused.has_calls(chunk):
                self._fused.prepare(self._chunk_io(chunk), steps_ahead=self._spec.plan.steps_ahead)
            # Whether it succeeds or not, this is no training time.
            self._compile_seconds += time.perf_counter() - started_at
            return self._fused.parts(chunk)
        return [Part(0, len(chunk.indices), 0)]

    @property
    def _stopped(self) -> bool:
        return self._stop_signal.received is not None and self._alone

    def _run_eagerly(self, chunk: Chunk, logits: Tensor, *, check_each: bool) -> Losses:
        step, position = self.step, self._position
        losses: Losses = []
        # The generator gathers and normalises images a few mini-batches ahead, while they are in the cache.
        minibatches = chunk.minibatches(self._spec.normalise, self._spec.loss.encode, self._spec.loss.image_weights)
        for (images, targets, weight), rows in zip(minibatches, logits.split(chunk.sizes), strict=True):
            if check_each:
                # Saved before each update, so that the weights of the error are those before the faulty one.
                step.save()
            batch_logits, loss = step(images, targets, weight, position.total_steps)
            if check_each:
                self._require_finite(loss)
            position.advance()
            rows.copy_(batch_logits)
            if not self._alone:
                # The part of this process in the mean over the whole mini-batch, as if its images had equal weights.
                whole = len(chunk.indices[len(losses)])
                loss = loss * (weight * whole / (len(images) * chunk.plan.world_size))
            losses.append(loss)
            if self._stopped:
                break
        return losses

    def _run_fused(self, chunk: Chunk, logits: Tensor, steps: int, *, check_each: bool) -> Losses:
        """Run the mini-batches of ``chunk``, which fill whole calls of ``steps`` updates.

        With ``check_each`` a call that leaves nan or infinity is rolled back and repeated eagerly, which finds the
        faulty mini-batch.
        """
        if check_each:
            losses: Losses = []
            rows = logits.split(steps * chunk.plan.batch_size)
            for begin, own in zip(range(0, len(chunk.indices), steps), rows, strict=True):
                losses += self._run_checked_call(chunk.part(begin, begin + steps), own, steps)
                if self._stopped:
                    break
            return losses
        assert self._fused is not None
        # The logits go straight into the buffer of the whole chunk.
        chunk_io = self._chunk_io(chunk, logits=logits)
        done = self._fused.run_part(chunk_io, steps, self._stop_signal)
        self._position.advance(done)
        self.step.finish_steps(self._position.total_steps)
        # On a GPU the losses stay on the device. They are read together with the check for finite numbers.
        all_losses = chunk_io.losses[:done, 0]
        return all_losses.tolist() if self.step.read_losses else list(all_losses)

    def _run_checked_call(self, call: Chunk, logits: Tensor, steps: int) -> Losses:
        """Run the mini-batches of one call; raises ``RunError`` at the faulty one."""
        self.step.save()
        losses = self._run_fused(call, logits, steps, check_each=False)
        if self._finite(losses):
            return losses
        self.step.rollback()
        # The counts go back with the tensors, so that the repetition draws the same masks and learning rates.
        self._position.advance(-len(losses))
        self.step.finish_steps(self._position.total_steps)
        return self._run_eagerly(call, logits, check_each=True)

    def _chunk_io(self, chunk: Chunk, logits: Tensor | None = None) -> ChunkIO:
        assert self._fused is not None
        rates, ema_weight = self._fused.rates(self._position.total_steps, len(chunk.indices))
        return ChunkIO.empty(
            [chunk], first=self._position.total_steps, rates=rates, ema_weight=ema_weight,
            like=self._spec.normalise.scale, logits=None if logits is None else logits.unsqueeze(0),
        )  # fmt: skip

    def _finite(self, losses: Sequence[Tensor | float]) -> bool:
        """Whether losses and state are finite in all processes: if one stopped alone, the others would wait forever."""
        finite = all(map(math.isfinite, as_numbers(losses))) and self.step.finite()
        return bool(self._strategy.reduce_boolean_decision(finite, all=True))

    def _require_finite(self, loss: Tensor | float) -> None:
        if self._finite([loss]):
            return
        self.step.rollback()
        # The loss may be infinite in another process only; the sum is not finite in all of them.
        losses = self._strategy.reduce(torch.as_tensor(loss, device=self._spec.device), reduce_op="sum")
        raise self.step.divergence(float(losses), self._position.total_steps)
