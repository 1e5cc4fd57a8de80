"""Runs the updates of a chunk in a solo run, one mini-batch at a time or several in a compiled call.

The classifier calls it and counts the results; ``TrainStep`` and ``CompiledSteps`` make the updates. It rolls back
updates that are not finite. n images, C, H, W; K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk, Position
from digitlab.data.normalise import Normalise
from digitlab.engine.aot_cache import CompilerError, fall_back
from digitlab.engine.chunk_io import leading_full_batches
from digitlab.engine.compiled_solo import CompiledSteps
from digitlab.engine.cuda_graph import CudaGraphError
from digitlab.engine.device import as_numbers
from digitlab.engine.eager import TrainStep
from digitlab.optim.losses import Loss

Losses = list[Tensor | float]


class ChunkRunner:
    """Runs chunks with ``compiled``, if given, and ``step``; it advances ``position`` with each mini-batch.

    After a signal it stops within the chunk if this process is ``alone``. Several processes stop together, at the end
    of the chunk, or some would wait for the others for ever.
    """

    def __init__(
        self,
        *,
        step: TrainStep,
        compiled: CompiledSteps | None,
        position: Position,
        normalise: Normalise,
        loss: Loss,
        strategy: Strategy,
        stop_signal: StopSignal,
        alone: bool,
    ) -> None:
        self.step, self.compiled, self.position = step, compiled, position
        self._timed = compiled  # stays if compiled steps fail and are dropped
        self._normalise, self._loss, self._strategy = normalise, loss, strategy
        self._stop_signal, self._alone = stop_signal, alone

    def take_compile_seconds(self) -> float:
        """Return the seconds that were spent on compiling since the last call; they are no training time."""
        if self._timed is None:
            return 0.0
        seconds, self._timed.compile_seconds = self._timed.compile_seconds, 0.0
        return seconds

    def run_chunk(self, chunk: Chunk) -> tuple[Tensor, list[float]]:
        """Return the logits (all images of the chunk, K) and the loss of each mini-batch; fewer losses after a signal.

        Raises ``RunError`` if a loss, a gradient or the updated weights are not finite; the weights are then those
        before that update.
        """
        start = replace(self.position)
        self.step.save()
        # The usual case: one check for the whole chunk, because the host waits for the device to read the result.
        logits, losses = self._run_chunk(chunk)
        numbers = as_numbers(losses)
        if not self._finite(numbers):
            # The second pass meets the same faulty update, checks after each mini-batch, and raises there.
            self.step.rollback()
            self.position.step, self.position.total_steps = start.step, start.total_steps
            logits, losses = self._run_chunk(chunk, check_each=True)
            numbers = as_numbers(losses)
        return logits, numbers

    def _run_chunk(self, chunk: Chunk, *, check_each: bool = False) -> tuple[Tensor, Losses]:
        """With ``check_each`` the state is checked after each mini-batch or compiled call."""
        # The logits are copied into one tensor. If each mini-batch kept its own, these small tensors would fill the
        # gaps that freed images leave in memory, the next images would not fit there, and a chunk would touch hundreds
        # of fresh megabytes.
        like = self._normalise.scale
        logits = torch.empty(len(chunk.labels), chunk.classes, dtype=like.dtype, device=like.device)
        losses: Losses = []
        for first, last, steps in self._parts(chunk):
            if first == last or self._stopped:
                continue
            part = chunk.part(first, last)
            rows = logits[sum(chunk.sizes[:first]) :][: len(part.labels)]
            # A part before this one may have failed to compile, and has set ``compiled`` to None.
            if self.compiled is None or steps == 0:
                losses += self._run_eagerly(part, rows, check_each=check_each)
            else:
                losses += self._run_compiled(part, rows, self.compiled, steps, check_each=check_each)
        return logits, losses

    def _parts(self, chunk: Chunk) -> list[tuple[int, int, int]]:
        """The parts of ``chunk``: first mini-batch, last one (exclusive), and updates in a compiled call; 0 if eager.

        Compiled calls have a fixed number of full mini-batches. The mini-batches around them run one by one.
        """
        count = len(chunk.indices)
        if self.compiled is None:
            return [(0, count, 0)]
        steps = self.compiled.steps(chunk.plan.batch_size)
        begin, end = chunk.full_executions(steps)
        if not self.compiled.captures_single_steps:
            return [(0, begin, 0), (begin, end, steps), (end, count, 0)]
        # A graph has one mini-batch size, so a smaller mini-batch at the end of the epoch runs eagerly.
        full = leading_full_batches(chunk)
        begin, end = min(begin, full), min(end, full)
        return [(0, begin, 1), (begin, end, steps), (end, full, 1), (full, count, 0)]

    @property
    def _stopped(self) -> bool:
        return self._stop_signal.received is not None and self._alone

    def _run_eagerly(self, chunk: Chunk, logits: Tensor, *, check_each: bool) -> Losses:
        step, position = self.step, self.position
        losses: Losses = []
        # The generator gathers and normalises images a few mini-batches ahead, while they are in the cache.
        minibatches = chunk.minibatches(self._normalise, self._loss.encode, self._loss.image_weights)
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

    def _run_compiled(
        self, chunk: Chunk, logits: Tensor, compiled: CompiledSteps, steps: int, *, check_each: bool
    ) -> Losses:
        """Run the mini-batches of ``chunk``, which fill whole calls of ``steps`` updates.

        With ``check_each`` a call that leaves nan or infinity is rolled back and repeated eagerly, which finds the
        faulty mini-batch.
        """
        losses: list[Tensor] = []
        # Each block has the mini-batches of one call.
        blocks = zip(chunk.blocks(steps, self._loss.encode), logits.split(steps * chunk.plan.batch_size), strict=True)
        compiled.start_steps(self.position.total_steps, len(chunk.indices))
        for call, ((pixels, targets), rows) in enumerate(blocks):
            if check_each:
                self.step.save()
            try:
                outputs = compiled(pixels, targets, self.position.total_steps)
            except CompilerError as error:
                fall_back(error, asked=compiled.always or isinstance(error, CudaGraphError))
                # Only the first call can fail, when it compiles or captures, so nothing of this part is done yet.
                self.compiled = None
                return self._run_eagerly(chunk, logits, check_each=check_each)
            if check_each and not self._finite(outputs.losses.unbind()):
                self.step.rollback()
                losses.append(self._repeat_eagerly(chunk.part(call * steps, (call + 1) * steps), rows, compiled))
                compiled.start_steps(self.position.total_steps, len(chunk.indices))
            else:
                rows.copy_(outputs.logits.flatten(0, 1))
                losses.append(outputs.losses)
                # The position advances only after a successful call: a rollback returns to the state before it.
                for _ in range(steps):
                    self.position.advance()
            if self._stopped:
                break
        compiled.finish_steps(self.position.total_steps)
        # On a GPU the losses stay on the device. They are read together with the check for finite numbers.
        all_losses = torch.cat(losses)
        return all_losses.tolist() if self.step.read_losses else list(all_losses)

    def _repeat_eagerly(self, call: Chunk, logits: Tensor, compiled: CompiledSteps) -> Tensor:
        """Run the mini-batches of a compiled call eagerly. Raises ``RunError`` at the faulty one."""
        compiled.finish_steps(self.position.total_steps)
        losses = self._run_eagerly(call, logits, check_each=True)
        return torch.tensor(as_numbers(losses), dtype=logits.dtype, device=logits.device)

    def _finite(self, losses: Sequence[Tensor | float]) -> bool:
        """Whether losses and state are finite in all processes: if one stopped alone, the others would wait forever."""
        finite = all(map(math.isfinite, as_numbers(losses))) and self.step.finite()
        return bool(self._strategy.reduce_boolean_decision(finite, all=True))

    def _require_finite(self, loss: Tensor | float) -> None:
        if self._finite([loss]):
            return
        self.step.rollback()
        # The loss may be infinite in another process only; the sum is not finite in all of them.
        losses = self._strategy.reduce(torch.as_tensor(loss, device=self._normalise.scale.device), reduce_op="sum")
        raise self.step.divergence(float(losses), self.position.total_steps)
