"""One update of a solo run: forward, loss, backward, rule, by eager PyTorch and ``torch.optim``.

It runs for every mini-batch, and a small network's whole step takes 300 µs: what can be looked up once is looked up
when it is made, and nothing but the loss is read from the tensors. Whether they are finite is asked once a chunk.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from digitlab.core.abilities import abilities
from digitlab.core.errors import RunError
from digitlab.engine.rollback import Rollback, divergence
from digitlab.optim.functional import max_ema_decay
from digitlab.optim.losses import Loss
from digitlab.optim.schedules import Constant, Schedule


class TrainStep:
    """The update of ``network`` by ``optimizer``; ``average``, where given, follows its weights with ``ema_decay``.

    ``backward(loss, weight)`` computes the gradients; ``seed`` is that of the forward pass in this process;
    ``total_steps`` and ``steps_per_epoch`` are what the schedule needs to know.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        backward: Callable[[Tensor, float], None],
        lr: float,
        schedule: Schedule,
        steps_per_epoch: int,
        total_steps: int,
        seed: int,
        device: torch.device,
        read_losses: bool,
        autocast_dtype: torch.dtype | None = None,
        gradient_clip_norm: float | None = None,
        average: nn.Module | None = None,
        ema_decay: float | None = None,
    ) -> None:
        self._network, self._loss, self._optimizer, self._backward = network, loss, optimizer, backward
        self._lr, self._schedule = lr, schedule
        self._steps_per_epoch, self._total_steps = steps_per_epoch, total_steps
        self._constant = isinstance(schedule, Constant) and schedule.warmup_epochs == 0
        self._seed = seed
        self.read_losses = read_losses
        self._generator = abilities(device).default_generator(device)
        self._autocast = nullcontext() if autocast_dtype is None else torch.autocast(device.type, autocast_dtype)
        self._clip_norm = gradient_clip_norm
        self._parameters = list(network.parameters())
        self._weights: list[Tensor] = list(self._parameters)
        # The method as its class defines it: the hooks that torch wraps around it for profilers take 6 µs a step.
        step = type(optimizer).step
        self._update: Callable[[torch.optim.Optimizer], object] = getattr(step, "__wrapped__", step)
        self._average, self._ema_decay = average, ema_decay
        self._rollback = Rollback(self._changed)
        self._clipped: Tensor | float = 0.0  # until a norm that is not finite is met

    def learning_rate(self, step: int) -> float:
        """The learning rate of the mini-batch ``step``, counted from 0 over the whole run."""
        if self._constant:
            return self._lr
        factor = self._schedule.factor(step, steps_per_epoch=self._steps_per_epoch, total_steps=self._total_steps)
        return self._lr * factor

    def __call__(self, images: Tensor, targets: Tensor, weight: float, step: int) -> tuple[Tensor, Tensor | float]:
        """Learn from images (n, C, H, W), normalised, and encoded targets; returns logits (n, K) and the mean loss.

        With ``read_losses`` the loss is a number, else a scalar on the device.
        """
        # Dropout draws from the device's global generator. Seeded anew for each mini-batch, its draws are a pure
        # function of (seed, step, process): a resumed run needs no random state, and chunks of any length are alike.
        self._generator.manual_seed(self._seed ^ step)
        if not self._constant:
            for group in self._optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
        # Autocast is entered once a mini-batch: around a chunk its cache would keep the weights as cast for the first.
        with self._autocast:
            logits = self._network(images)
            loss = self._loss(logits, targets)
        mean_loss: Tensor | float = loss.item() if self.read_losses else loss.detach()
        self._backward(loss, weight)
        if self._clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
            # A gradient of infinite norm is scaled to zeros, which leave no trace in the weights.
            self._clipped = self._clipped + 0 * (norm.item() if self.read_losses else norm)
        self._update(self._optimizer)
        # What zero_grad() does, without the 6 µs that its hooks for a profiler take.
        for parameter in self._parameters:
            parameter.grad = None
        if self._average is not None:
            self._update_ema(step)
        return logits.detach(), mean_loss

    def keep(self) -> None:
        """Remember all that updates change, for ``restore``."""
        self._rollback.keep()
        self._clipped = 0.0

    def restore(self) -> None:
        """Undo the updates since ``keep``."""
        if self._rollback.count < len(self._changed()):
            self._optimizer.state.clear()
        self._rollback.restore()

    def finite(self) -> bool:
        """Whether the updates since ``keep`` have met and left nothing that is nan or infinite."""
        return math.isfinite(self._clipped) and self._rollback.finite()

    def divergence(self, loss: float, step: int) -> RunError:
        """What to raise for mini-batch ``step``, counted from 0, of which ``loss`` or the update is not finite."""
        rate = self.learning_rate(step)
        return divergence(loss, step, steps_per_epoch=self._steps_per_epoch, learning_rate=rate)

    def _changed(self) -> list[Tensor]:
        modules = [self._network] if self._average is None else [self._network, self._average]
        weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        entries = (value for entry in self._optimizer.state.values() for value in entry.values())
        return weights + [value for value in entries if isinstance(value, Tensor)]

    def ema_weight(self, step: int) -> float:
        """How far the averaged weights go towards the weights after mini-batch ``step``, counted from 0."""
        return 0.0 if self._ema_decay is None else 1 - min(self._ema_decay, max_ema_decay(step + 1))

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        assert self._average is not None
        torch._foreach_lerp_(list(self._average.parameters()), self._weights, self.ema_weight(step))
        for average, buffer in zip(self._average.buffers(), self._network.buffers(), strict=True):
            average.copy_(buffer)
