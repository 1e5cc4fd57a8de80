"""How a solo run learns a chunk: a mini-batch at a time, or several in a compiled call, but not past a wrong number.

Between the classifier, which counts what comes out, and the steps, which know of one mini-batch or a few. N images,
C, H, W, K classes.
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
from digitlab.engine.compiled_solo import CompiledSteps
from digitlab.engine.cuda_graph import CudaGraphError
from digitlab.engine.device import as_numbers
from digitlab.engine.eager import TrainStep
from digitlab.optim.losses import Loss

Losses = list[Tensor | float]


class ChunkRunner:
    """Learns chunks by ``step``, and by ``compiled`` where it is given; ``position`` moves on with each mini-batch.

    After a signal it ends early, but several processes stop together, at the end of the chunk.
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
        """Logits (n of all, K) and the losses of single mini-batches, fewer than in ``chunk`` after a signal.

        Raises ``RunError`` where the loss, the gradient or what the update makes of the weights is not finite; the
        weights are then those before that update.
        """
        begun = replace(self.position)
        self.step.keep()
        logits, losses = self._run_chunk(chunk)
        numbers = as_numbers(losses)
        if not self._finite(numbers):
            self.step.restore()
            self.position.step, self.position.total_steps = begun.step, begun.total_steps
            logits, losses = self._run_chunk(chunk, watched=True)
            numbers = as_numbers(losses)
        return logits, numbers

    def _run_chunk(self, chunk: Chunk, *, watched: bool = False) -> tuple[Tensor, Losses]:
        """``watched`` looks at each mini-batch, or compiled call, before the next."""
        # The logits are copied into one tensor: kept as they come, each would lie in the gap that a mini-batch's images
        # left in memory, the next would not fit in there, and a chunk would wander over hundreds of fresh megabytes.
        like = self._normalise.scale
        logits = torch.empty(len(chunk.labels), chunk.classes, dtype=like.dtype, device=like.device)
        losses: Losses = []
        begin = end = len(chunk.indices)
        if self.compiled is not None:
            begin, end = chunk.full_executions(self.compiled.steps(chunk.plan.batch_size))
        for first, last, compiled in ((0, begin, None), (begin, end, self.compiled), (end, len(chunk.indices), None)):
            if first == last or self._stopped:
                continue
            part = chunk.part(first, last)
            rows = logits[sum(chunk.sizes[:first]) :][: len(part.labels)]
            if compiled is None:
                losses += self._learn_eagerly(part, rows, watched=watched)
            else:
                losses += self._learn_compiled(part, rows, compiled, watched=watched)
        return logits, losses

    @property
    def _stopped(self) -> bool:
        return self._stop_signal.received is not None and self._alone

    def _learn_eagerly(self, chunk: Chunk, logits: Tensor, *, watched: bool) -> Losses:
        step, position = self.step, self.position
        losses: Losses = []
        minibatches = chunk.minibatches(self._normalise, self._loss.encode)
        for (images, targets, weight), rows in zip(minibatches, logits.split(chunk.sizes), strict=True):
            if watched:
                step.keep()
            batch_logits, loss = step(images, targets, weight, position.total_steps)
            if watched:
                self._require_finite(loss)
            position.advance()
            rows.copy_(batch_logits)
            losses.append(loss)
            if self._stopped:
                break
        return losses

    def _learn_compiled(self, chunk: Chunk, logits: Tensor, compiled: CompiledSteps, *, watched: bool) -> Losses:
        """The mini-batches of ``chunk``, which fill whole calls; ``watched`` learns those of a faulty call eagerly."""
        losses: list[Tensor] = []
        steps = compiled.steps(chunk.plan.batch_size)
        blocks = zip(chunk.blocks(steps, self._loss.encode), logits.split(steps * chunk.plan.batch_size), strict=True)
        compiled.begin(self.position.total_steps, len(chunk.indices))
        for call, ((pixels, targets), rows) in enumerate(blocks):
            if watched:
                self.step.keep()
            try:
                taken = compiled(pixels, targets, self.position.total_steps)
            except CompilerError as error:
                fall_back(error, asked=compiled.always or isinstance(error, CudaGraphError))
                self.compiled = None
                return self._learn_eagerly(chunk, logits, watched=watched)
            if watched and not self._finite(taken.losses.unbind()):
                self.step.restore()
                losses.append(self._step_by_step(chunk.part(call * steps, (call + 1) * steps), rows, compiled))
                compiled.begin(self.position.total_steps, len(chunk.indices))
            else:
                rows.copy_(taken.logits.flatten(0, 1))
                losses.append(taken.losses)
                for _ in range(steps):
                    self.position.advance()
            if self._stopped:
                break
        compiled.end(self.position.total_steps)
        every = torch.cat(losses)
        return every.tolist() if self.step.read_losses else list(every)

    def _step_by_step(self, call: Chunk, logits: Tensor, compiled: CompiledSteps) -> Tensor:
        """Between two compiled calls, the mini-batches of another: up to the one that goes wrong."""
        compiled.end(self.position.total_steps)
        losses = self._learn_eagerly(call, logits, watched=True)
        return torch.tensor(as_numbers(losses), dtype=logits.dtype, device=logits.device)

    def _finite(self, losses: Sequence[Tensor | float]) -> bool:
        """Whether nothing has gone wrong, in any process: where one stops all do, or the others wait for ever."""
        finite = all(map(math.isfinite, as_numbers(losses))) and self.step.finite()
        return bool(self._strategy.reduce_boolean_decision(finite, all=True))

    def _require_finite(self, loss: Tensor | float) -> None:
        if self._finite([loss]):
            return
        self.step.restore()
        # Another process may be the one that met it.
        losses = self._strategy.reduce(torch.as_tensor(loss, device=self._normalise.scale.device), reduce_op="sum")
        raise self.step.divergence(float(losses), self.position.total_steps)
