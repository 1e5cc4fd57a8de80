"""One update of M stacked networks: forward, loss, backward, clipping, update rule and moving average of the weights.

The networks, the members, have one architecture, and their tensors are stacked to (M, ...). ``StackedRunner`` calls the
update once for each mini-batch. The compiled form and the CUDA graph of ``UpdateFunction`` contain several such
updates. Members with the same seed share a stream of mini-batches. Shapes: M members, n images in a mini-batch, C
channels, H rows, W columns, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.stacked_loss import MemberLosses, StackedLoss
from digitlab.engine.stacked_optimizer import StackedRule, clip_gradients, update_ema
from digitlab.engine.vmap_stack import VmapStack


class StackedBatch(NamedTuple):
    """A mini-batch of each member.

    ``images``: (n, C, H, W) for each stream, normalised. ``targets``: (M, n, ...), encoded, which means in the form
    that the loss takes. ``masks``: (M, n, ...) for each dropout layer; empty without dropout.
    """

    images: Sequence[Tensor]
    targets: Tensor
    masks: Sequence[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedUpdate:
    """Updates the networks of ``stack``; ``apply(gradients, rates)`` applies ``rule``.

    ``averages`` hold the exponential moving averages of the parameters; empty without them. ``clip_norm`` is float64
    (M,), or None to clip nothing. In a stack from ``VmapStack.as_single``, tensors have no dimension for members, and
    what is (M,) here is a scalar; only images, targets, masks, logits and losses keep the dimension, with M = 1.
    """

    stack: DenseStack | VmapStack
    loss: StackedLoss | MemberLosses
    rule: StackedRule
    apply: Callable[[Sequence[Tensor], Tensor], None]
    averages: Sequence[Tensor]
    clip_norm: Tensor | None

    def __call__(self, batch: StackedBatch, rates: Tensor, ema_weight: Tensor) -> Tensor:
        """Update all members from ``batch`` and return their logits before the update, (M, n, K).

        ``rates`` and ``ema_weight`` are float64 (M,): the learning rates, and the weight of the new parameters in the
        averages.
        """
        logits = self.stack.forward(batch.images, batch.masks)
        self._descend(self.loss.gradient(logits, batch.targets), rates, ema_weight)
        return logits

    def with_losses(self, batch: StackedBatch, rates: Tensor, ema_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Make the same update; return the mean losses (M,) and the logits (M, n, K), both from before the update."""
        logits = self.stack.forward(batch.images, batch.masks)
        losses, gradient = self.loss.mean_and_gradient(logits, batch.targets)
        self._descend(gradient, rates, ema_weight)
        return losses, logits

    def _descend(self, gradient: Tensor, rates: Tensor, ema_weight: Tensor) -> None:
        """Backpropagate ``gradient``, the derivative of the loss by the logits (M, n, K), and update the networks."""
        self.stack.backward(gradient)
        if isinstance(self.stack, DenseStack) and self.rule.is_plain_sgd and self.clip_norm is None:
            # Plain SGD adds the products that make up the gradients straight to the weights. This saves writing and
            # reading the gradients. Clipping needs the norm of the whole gradient first, so it can't do without them.
            self.stack.descend(rates, self.rule.decay_factors(self.stack.parameters, rates))
        else:
            gradients = self.stack.gradients()
            if self.clip_norm is not None:
                gradients = clip_gradients(gradients, self.clip_norm)
            self.apply(gradients, rates)
        if self.averages:
            update_ema(self.averages, self.stack.parameters, ema_weight)
