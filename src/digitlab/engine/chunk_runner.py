"""Trains the network of a solo run, one chunk (several mini-batches in a row) at a time.

A solo run trains one network; it is not part of a population. ``training.Classifier`` calls ``ChunkRunner.run_chunk``
and adds the results to its metrics. ``TrainStep`` makes a single update with eager PyTorch. ``FusedUpdates`` makes
several updates in one fused call, which is compiled, captured as a CUDA graph, or both. If an update leads to nan or
infinity, it is undone and the run ends with an error. K is the number of classes.
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

# The mean loss of each mini-batch: floats on the CPU, scalar tensors on a GPU, where reading each would make the host
# wait.
Losses = list[Tensor | float]


class ChunkRunner:
    """Trains on chunks with ``fused``, if given, and with ``step`` where ``fused`` can't be used.

    Each update advances the position in the plan of ``spec``. When ``stop_signal`` has received SIGINT or SIGTERM, a
    run with one process stops within the chunk. Several processes (DDP) stop together at the end of the chunk: if one
    stopped earlier, the others would wait for its gradients forever.
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
        # The plan's own position, not a copy: checkpoints and metrics read it, too.
        self._spec, self._position = spec, spec.plan.position
        self._strategy, self._stop_signal = strategy, stop_signal
        self._single_process = spec.plan.chunks.world_size == 1
        self._compile_seconds = 0.0

    def take_compile_seconds(self) -> float:
        """Return the seconds spent on compiling since the last call; they do not count as training time."""
        seconds, self._compile_seconds = self._compile_seconds, 0.0
        return seconds

    def release(self) -> None:
        """Free compiled updates and CUDA graphs, because the test and later runs in this process need their memory."""
        self._fused = None

    def run_chunk(self, chunk: Chunk) -> tuple[Tensor, list[float]]:
        """Train on ``chunk``; return the logits (all images of the chunk, K) and the loss of each mini-batch.

        After a signal, there are losses only for the mini-batches before the stop. Raises ``RunError`` if a loss, a
        gradient or the updated weights are not finite; the network then has the weights from before that update.
        """

        def run(check_each: bool) -> tuple[Tensor, list[float]]:
            logits, losses = self._run_chunk(chunk, check_each=check_each)
            return logits, as_numbers(losses)

        return run_chunk_safely(
            run, finite=lambda results: self._finite(results[1]), state=self.step, position=self._position
        )

    def _run_chunk(self, chunk: Chunk, *, check_each: bool = False) -> tuple[Tensor, Losses]:
        """Train on ``chunk``; with ``check_each``, check losses and state after each mini-batch or fused call."""
        # All logits are copied into one tensor. If each mini-batch kept its own, these small tensors would fill the
        # gaps that freed images leave in memory. The next images would not fit there, and a chunk would use hundreds of
        # megabytes of new memory. The tensor ``scale`` has the dtype and device of the training.
        logits = self._spec.normalise.scale.new_empty(sum(chunk.sizes), chunk.classes)
        losses: Losses = []
        for begin, end, steps in self._parts(chunk):
            part = chunk.part(begin, end)
            part_logits = logits[sum(chunk.sizes[:begin]) :][: sum(part.sizes)]
            if steps == 0:
                losses += self._run_eagerly(part, part_logits, check_each=check_each)
            else:
                losses += self._run_fused(part, part_logits, steps, check_each=check_each)
            if self._stopped:
                break
        return logits, losses

    def _parts(self, chunk: Chunk) -> list[Part]:
        """Return the parts of ``chunk``. If a fused call that they need is missing, first compile or capture it.

        Each part says how many updates one fused call makes; 0 means that its updates are made eagerly.
        """
        if self._fused is not None and self._fused.active:
            started_at = time.perf_counter()
            if not self._fused.has_calls(chunk):
                self._fused.prepare(self._chunk_io(chunk), steps_ahead=self._spec.plan.steps_ahead)
            # Compiling does not count as training time. ``prepare`` logs a failure and returns, so this line counts
            # the time of a failed attempt, too.
            self._compile_seconds += time.perf_counter() - started_at
            return self._fused.parts(chunk)
        return [Part(0, len(chunk.indices), 0)]

    @property
    def _stopped(self) -> bool:
        """Whether a signal has come and the run may stop within the chunk."""
        return self._stop_signal.received is not None and self._single_process

    def _run_eagerly(self, chunk: Chunk, logits: Tensor, *, check_each: bool) -> Losses:
        """Train on ``chunk`` one mini-batch at a time; write the logits into ``logits`` and return the losses."""
        step, position = self.step, self._position
        losses: Losses = []
        # The generator collects the images of a few mini-batches at a time and normalises them at once, while they are
        # in the CPU's cache.
        minibatches = chunk.minibatches(self._spec.normalise, self._spec.loss.encode, self._spec.loss.image_weights)
        for (images, targets, weight), rows in zip(minibatches, logits.split(chunk.sizes), strict=True):
            if check_each:
                # Save the state before each update, so that a faulty update can be undone.
                step.save()
            batch_logits, loss = step(images, targets, weight, position.total_steps)
            if check_each:
                self._require_finite(loss)
            position.advance()
            rows.copy_(batch_logits)
            if not self._single_process:
                # Each process has a part of the mini-batch. DDP averages loss * weight over the processes, so this
                # process contributes loss * weight / world_size to the loss of the whole mini-batch. The metrics
                # multiply the loss of each process by its number of images and add up the products. So the contribution
                # is divided by this process's share of the images, and the sum is right for the whole mini-batch.
                whole_size = len(chunk.indices[len(losses)])
                loss = loss * (weight * whole_size / (len(images) * chunk.plan.world_size))
            losses.append(loss)
            if self._stopped:
                break
        return losses

    def _run_fused(self, chunk: Chunk, logits: Tensor, steps: int, *, check_each: bool) -> Losses:
        """Train on ``chunk`` in fused calls of ``steps`` updates each; it has a multiple of ``steps`` mini-batches.

        With ``check_each``, a call that leaves nan or infinity is undone and repeated eagerly, to find the faulty
        mini-batch.
        """
        if check_each:
            losses: Losses = []
            logits_of_calls = logits.split(steps * chunk.plan.batch_size)
            for begin, call_logits in zip(range(0, len(chunk.indices), steps), logits_of_calls, strict=True):
                losses += self._run_checked_call(chunk.part(begin, begin + steps), call_logits, steps)
                if self._stopped:
                    break
            return losses
        assert self._fused is not None
        # The calls write the logits into the buffer of the whole chunk, so nothing is copied later.
        chunk_io = self._chunk_io(chunk, logits=logits)
        done = self._fused.run_part(chunk_io, steps, self._stop_signal)
        self._position.advance(done)
        # Fused calls don't change the step counts of the torch optimizer, nor the buffers of the averaged network.
        self.step.finish_steps(self._position.total_steps)
        # On a GPU, the losses stay on the device until ``run_chunk`` reads all losses of the chunk at once.
        all_losses = chunk_io.losses[:done, 0]
        return all_losses.tolist() if self.step.read_losses else list(all_losses)

    def _run_checked_call(self, chunk: Chunk, logits: Tensor, steps: int) -> Losses:
        """Train on ``chunk`` in one fused call; if it is faulty, repeat it eagerly, which raises ``RunError``."""
        self.step.save()
        losses = self._run_fused(chunk, logits, steps, check_each=False)
        if self._finite(losses):
            return losses
        self.step.rollback()
        # The position is set back, too, so that the repetition uses the same dropout masks and learning rates.
        self._position.advance(-len(losses))
        self.step.finish_steps(self._position.total_steps)
        return self._run_eagerly(chunk, logits, check_each=True)

    def _chunk_io(self, chunk: Chunk, logits: Tensor | None = None) -> ChunkIO:
        """Return the inputs and output buffers for ``chunk``. A solo run is a stack of one network."""
        assert self._fused is not None
        rates, ema_weight = self._fused.rates(self._position.total_steps, len(chunk.indices))
        return ChunkIO.empty(
            [chunk], first=self._position.total_steps, rates=rates, ema_weight=ema_weight, device=self._spec.device,
            dtype=self._spec.normalise.scale.dtype, logits=None if logits is None else logits.unsqueeze(0),
        )  # fmt: skip

    def _finite(self, losses: Sequence[Tensor | float]) -> bool:
        """Return whether losses and state are finite in all processes.

        All processes get the same answer: if one of them stopped alone, the others would wait for it forever.
        """
        finite = all(map(math.isfinite, as_numbers(losses))) and self.step.finite()
        return bool(self._strategy.reduce_boolean_decision(finite, all=True))

    def _require_finite(self, loss: Tensor | float) -> None:
        """Undo the last update and raise ``RunError`` if ``loss`` or the state is not finite in some process."""
        if self._finite([loss]):
            return
        self.step.rollback()
        # Perhaps only another process has a loss that is not finite. Then the sum over all processes is not finite
        # either, so every process reports the same error.
        losses = self._strategy.reduce(torch.as_tensor(loss, device=self._spec.device), reduce_op="sum")
        raise self.step.divergence(float(losses), self._position.total_steps)
