"""One update of one network by eager PyTorch and ``torch.optim``: forward, loss, backward, optimizer step, average.

``ChunkRunner`` calls it in a solo run, which trains one network, for every mini-batch that no compiled call and no CUDA
graph trains on. These other forms of an update are tested against it. The average is the exponential moving average
(EMA) of the weights. The whole step of a small network takes 300 µs, so the constructor looks up whatever stays the
same, and a step reads no number from a tensor except the loss and, with clipping, the norm of the gradient.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from digitlab.core.abilities import abilities
from digitlab.core.errors import RunError
from digitlab.data.seeding import stream_seed
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.rollback import Rollback, divergence
from digitlab.optim.functional import max_ema_decay
from digitlab.optim.schedules import Constant


class TrainStep:
    """Updates the network of ``spec`` by ``optimizer``, and the average of its weights, if it has one.

    ``backward(loss, weight)`` computes the gradients. With several processes (DDP), it multiplies the loss by
    ``weight`` and averages the gradients over the processes; ``Chunk.minibatches`` explains the weight. With
    ``read_losses`` the host reads each loss at once.
    """

    def __init__(
        self,
        spec: MemberSpec,
        *,
        optimizer: torch.optim.Optimizer,
        backward: Callable[[Tensor, float], None],
        read_losses: bool,
    ) -> None:
        self._network, self._loss, self._average = spec.network, spec.loss, spec.average
        self._optimizer, self._backward, self.read_losses = optimizer, backward, read_losses
        self._lr, self._schedule, self._plan = spec.optimizer.lr, spec.schedule, spec.plan
        self._constant = isinstance(spec.schedule, Constant) and spec.schedule.warmup_epochs == 0
        self._ema_decay, self._clip_norm = spec.ema_decay, spec.gradient_clip_norm
        # The seed contains the rank, so that each process of a run draws dropout masks of its own.
        self._seed = stream_seed("forward", spec.plan.seed, spec.plan.chunks.rank)
        self._generator = abilities(spec.device).default_generator(spec.device)
        dtype = spec.autocast_dtype
        self._autocast = nullcontext() if dtype is None else torch.autocast(spec.device.type, dtype)
        self._parameters = list(spec.network.parameters())
        self._weights: list[Tensor] = list(self._parameters)
        # The method without the profiler hooks that torch wraps around it, because they take 6 µs in each step.
        step = type(optimizer).step
        self._update: Callable[[torch.optim.Optimizer], object] = getattr(step, "__wrapped__", step)
        self._rollback = Rollback(self._state_tensors)
        # 0.0 while all gradient norms since ``save`` are finite, then nan.
        self._norm_check: Tensor | float = 0.0

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of mini-batch ``step``, counted from 0 over the whole run."""
        if self._constant:
            return self._lr
        plan = self._plan
        factor = self._schedule.factor(step, steps_per_epoch=plan.steps_per_epoch, total_steps=plan.total_steps)
        return self._lr * factor

    def __call__(self, images: Tensor, targets: Tensor, weight: float, step: int) -> tuple[Tensor, Tensor | float]:
        """Train on normalised images (n, C, H, W) and encoded targets; return logits (n, K) and the mean loss.

        Encoded targets have the form that the loss takes. ``weight`` is passed to ``backward``. ``step`` is the number
        of the mini-batch, counted from 0 over the whole run. The loss is a number with ``read_losses``, otherwise a
        scalar tensor on the device.
        """
        # Dropout draws from the device's global generator. Because the generator is seeded for each mini-batch, the
        # masks are a function of (seed, step, process): a resumed run needs no random state, and the chunk length
        # changes nothing.
        self._generator.manual_seed(self._seed ^ step)
        if not self._constant:
            for group in self._optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
        # Enter autocast for each mini-batch, because it caches the weights that it has cast: around a whole chunk, it
        # would reuse the weights of the first mini-batch.
        with self._autocast:
            logits = self._network(images)
            loss = self._loss(logits, targets)
        mean_loss: Tensor | float = loss.item() if self.read_losses else loss.detach()
        self._backward(loss, weight)
        if self._clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
            # Clipping scales an infinite gradient to zeros, so the weights stay finite. ``finite`` must still notice
            # it: 0 times an infinite norm is nan, and the sum stays nan.
            self._norm_check = self._norm_check + 0 * (norm.item() if self.read_losses else norm)
        self._update(self._optimizer)
        # This does what zero_grad() does, without its profiler hooks, which take 6 µs.
        for parameter in self._parameters:
            parameter.grad = None
        if self._average is not None:
            self._update_ema(step)
        return logits.detach(), mean_loss

    def save(self) -> None:
        """Save all tensors that updates change, for ``rollback``."""
        self._rollback.save()
        self._norm_check = 0.0

    def rollback(self) -> None:
        """Undo the updates since ``save``."""
        # If the optimizer has created its state since then, nothing was saved of it. The next update creates it again.
        if self._rollback.count < len(self._state_tensors()):
            self._optimizer.state.clear()
        self._rollback.rollback()

    def finite(self) -> bool:
        """Return whether, since ``save``, all gradients were finite and the state still is."""
        return math.isfinite(self._norm_check) and self._rollback.finite()

    def divergence(self, loss: float, step: int) -> RunError:
        """Return the error for mini-batch ``step``, counted from 0, whose ``loss`` or update is not finite."""
        rate = self.learning_rate(step)
        return divergence(loss, step, steps_per_epoch=self._plan.steps_per_epoch, learning_rate=rate)

    def _state_tensors(self) -> list[Tensor]:
        modules = [self._network] if self._average is None else [self._network, self._average]
        weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        entries = (value for entry in self._optimizer.state.values() for value in entry.values())
        return weights + [value for value in entries if isinstance(value, Tensor)]

    def finish_steps(self, step: int) -> None:
        """After fused updates, set what they leave unchanged: the optimizer's step counts and the average's buffers.

        ``step`` is the number of updates so far.
        """
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"].fill_(step)
        self._copy_buffers()

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        assert self._average is not None
        assert self._ema_decay is not None
        # The weight of the new parameters. ``max_ema_decay`` explains why the decay is limited at first.
        weight = 1 - min(self._ema_decay, max_ema_decay(step + 1))
        torch._foreach_lerp_(list(self._average.parameters()), self._weights, weight)
        self._copy_buffers()

    @torch.no_grad()
    def _copy_buffers(self) -> None:
        """Copy the buffers into the averaged network: the statistics of batch norm are averages already."""
        if self._average is not None:
            for average, buffer in zip(self._average.buffers(), self._network.buffers(), strict=True):
                average.copy_(buffer)
