"""Trains and evaluates the stacked networks of a population: one update at a time (eagerly), or several in a call.

A population trains M networks of one architecture, the members, at once: their tensors are stacked to (M, ...). A call
runs a compiled function or replays a CUDA graph. ``population.trainer`` uses ``StackedRunner``; ``ChunkRunner`` is its
counterpart for a run that trains one network. A chunk is B mini-batches in a row. Members with the same seed share one
stream of mini-batches, and each stream has its own chunk. n images in a mini-batch, K classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.data.evaluation import EvaluationBatch
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.fused_execution import Acceleration, FusedUpdates, Part
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.metrics import Counts
from digitlab.engine.stacked_evaluation import evaluate_stack
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_networks import StackedNetworks
from digitlab.engine.stacked_update import StackedBatch

# Called after each update with its losses and learning rates, (M,), and its number, counted from 0 over the whole run.
UpdateCallback = Callable[[Tensor, Tensor, int], None]


class StackedRunner:
    """Trains and evaluates the networks of ``members`` together; ``acceleration`` says how updates are executed."""

    def __init__(
        self, members: Sequence[MemberSpec], *, device: torch.device, acceleration: Acceleration | None = None
    ) -> None:
        self.networks = StackedNetworks(members, device=device)
        self.stack, self.optimizer = self.networks.stack, self.networks.optimizer
        self.fused_updates = FusedUpdates(self.networks, acceleration or Acceleration())
        loss = self.networks.loss
        assert isinstance(loss, StackedLoss)
        self.loss = loss

    def inherit_from(self, former: "StackedRunner", members: Tensor) -> None:
        """Take over the optimizer's state and the accelerated updates of the ``former`` runner.

        ``members``, int64, holds for each member of this runner its index in ``former``.
        """
        self.optimizer.inherit(members, former.optimizer)
        self.fused_updates.inherit_from(former.fused_updates, members)

    def prepare(self, chunks: Sequence[Chunk], *, first: int, steps_ahead: int) -> None:
        """Capture or compile the updates for ``chunks`` and for others of their shape, if required and not done yet.

        ``first`` is the number of their first mini-batch, counted from 0 over the whole run. ``steps_ahead``, the
        number of updates still to come, decides whether compiling saves time.
        """
        if not self.fused_updates.has_calls(chunks[0]):
            self.fused_updates.prepare(self._chunk_io(chunks, first=first)[0], steps_ahead=steps_ahead)

    def run_chunk(
        self, chunks: Sequence[Chunk], *, first: int, stop_signal: StopSignal, callback: UpdateCallback | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make one update for each mini-batch of the ``chunks``, one chunk per stream.

        ``first`` is the number of the first mini-batch, counted from 0 over the whole run. If ``callback`` is given,
        it is called after each update, and all updates are eager, because a call makes several at once.

        Returns logits (M, all images, K) on the device, losses (B, M) on the device, and learning rates (B, M) on the
        host. After a signal they cover only the mini-batches that are done.
        """
        sizes, done = chunks[0].sizes, 0
        chunk_io, host_rates = self._chunk_io(chunks, first=first)
        eager = callback is not None or not self.fused_updates.ready
        for begin, end, steps in [Part(0, len(sizes), 0)] if eager else self.fused_updates.parts(chunks[0]):
            part = chunk_io.part(begin, end)
            if steps:
                done += self.fused_updates.run_part(part, steps, stop_signal)
            else:
                done += self._run_eagerly(part, stop_signal, callback)
            self.optimizer.state.step.fill_(first + done)
            if done < end or stop_signal.received is not None:
                break
        return chunk_io.logits[:, : sum(sizes[:done])], chunk_io.losses[:done], host_rates[:done]

    def _chunk_io(self, chunks: Sequence[Chunk], *, first: int) -> tuple[ChunkIO, Tensor]:
        """Return the inputs and empty output buffers for ``chunks``, and the learning rates (B, M) on the host."""
        host_rates, ema_weight = self.networks.rates(first, len(chunks[0].sizes))
        scale = self.networks.normalise.scale  # has the device and dtype of the training
        chunk_io = ChunkIO.empty(
            chunks, first=first, rates=host_rates, ema_weight=ema_weight, device=scale.device, dtype=scale.dtype
        )
        return chunk_io, host_rates

    def _run_eagerly(self, chunk_io: ChunkIO, stop_signal: StopSignal, callback: UpdateCallback | None) -> int:
        """Make the updates one at a time, until all are made or a signal arrives; return how many were made."""
        sizes, done = chunk_io.chunks[0].sizes, 0
        seen_targets: list[Sequence[Tensor]] = []
        for batch, logits in zip(self._batches(chunk_io, seen_targets), chunk_io.logits.split(sizes, 1), strict=True):
            outputs = self.networks.update(batch, chunk_io.rates[done], chunk_io.ema_weight[done])
            logits.copy_(outputs)
            if callback is not None:
                callback(self.loss(outputs, batch.targets).mean(1), chunk_io.rates[done], chunk_io.first + done)
            done += 1
            if stop_signal.received is not None:
                break
        # Training needs only the gradients of the losses. Their values are computed here, for all mini-batches at once.
        streams = [torch.cat(stream) for stream in zip(*seen_targets[:done], strict=True)]
        losses = self.loss(chunk_io.logits[:, : sum(sizes[:done])], self.networks.expand_to_members(streams))
        batch_losses = [losses_of_batch.mean(1) for losses_of_batch in losses.split(sizes[:done], 1)]
        torch.stack(batch_losses, out=chunk_io.losses[:done])
        return done

    def _batches(self, chunk_io: ChunkIO, seen_targets: list[Sequence[Tensor]]) -> Iterator[StackedBatch]:
        """Yield the mini-batches of ``chunk_io``; append the targets of each, (n, ...) per stream, to ``seen_targets``.

        Masks for dropout are drawn only if a member has dropout.
        """
        networks = self.networks
        streams = [chunk.minibatches(networks.normalise, networks.loss.encode) for chunk in chunk_io.chunks]
        for number, stream_batches in enumerate(zip(*streams, strict=True)):
            images, targets, _ = zip(*stream_batches, strict=True)
            seen_targets.append(targets)
            size = chunk_io.chunks[0].sizes[number]
            masks = networks.masks.draw(chunk_io.first + number, size) if networks.masks is not None else ()
            yield StackedBatch(images, networks.expand_to_members(targets), masks)

    def evaluate(self, batches: Iterable[EvaluationBatch]) -> list[Counts]:
        """Return the counts of each member on ``batches``; moving averages of the weights are used if there are any."""
        networks = self.networks
        weights = networks.averages or self.stack.parameters
        return evaluate_stack(
            self.stack, weights, batches, normalise=networks.normalise, loss=self.loss, classes=networks.classes
        )
