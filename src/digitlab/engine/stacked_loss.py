"""The losses of stacked networks and their gradients with respect to the logits.

``StackedUpdate`` and ``StackedRunner`` use them. Updates start their backward pass from the gradient that is computed
here. ``StackedLoss`` computes the losses of all members of a population, which are trained together, at once.
``MemberLosses`` calls each member's own loss, of any class; the compiled and captured updates of a solo run, which is a
stack of one, use it. *Encoded* targets have the form that a loss takes. M members, n images, K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from digitlab.optim.losses import CrossEntropy, Loss, MeanSquaredError, WeightedCrossEntropy

# The classes of configured losses that can be stacked. ``CrossEntropy`` includes class weights: ``for_classes`` turns
# it into a ``WeightedCrossEntropy``. Runs with any other loss train alone.
STACKABLE = (CrossEntropy, MeanSquaredError)


class StackedLoss:
    """The loss of M members, which differ only in label smoothing: ``smoothing`` (M, 1), or None if no member smooths.

    With class weights, the smoothing is part of the encoded targets. Members share these targets, so all have the same
    smoothing, and ``smoothing`` is not used.
    """

    def __init__(self, loss: Loss, smoothing: Tensor | None) -> None:
        self._loss, self.smoothing = loss, smoothing

    @classmethod
    def from_members(cls, losses: Sequence[Loss], *, device: torch.device, dtype: torch.dtype) -> "StackedLoss":
        """Stack the members' ``losses``; ``dtype`` is that of the logits."""
        smoothing = [loss.label_smoothing for loss in losses if isinstance(loss, CrossEntropy)]
        # If no member smooths, ``smoothing`` is None, which selects formulas with fewer operations.
        stacked = torch.tensor(smoothing, device=device, dtype=dtype).unsqueeze(1) if any(smoothing) else None
        return cls(losses[0], stacked)

    def with_smoothing(self, smoothing: Tensor | None) -> "StackedLoss":
        """Return this loss with another ``smoothing``: compiled updates get that of the members as an argument."""
        return StackedLoss(self._loss, smoothing)

    def mean_and_gradient(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the members' mean losses, (M,), and the result of ``gradient``."""
        return self(logits, targets).mean(1), self.gradient(logits, targets)

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        """Encode labels as the members' loss does."""
        return self._loss.encode(targets, classes)

    def image_weights(self, targets: Tensor) -> Tensor | None:
        """Return the images' weights in the mean, or None if all count alike.

        ``targets`` are encoded: (..., K + 1), with K weighted class probabilities and then the weight of the image.
        """
        return self._loss.image_weights(targets)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each image, (M, n), from logits (M, n, K) and encoded targets, (M, n) or (M, n, K).

        With class weights, targets are (M, n, K + 1), and each loss is multiplied by n / (sum of the images' weights):
        then the plain mean over n is the weighted mean.
        """
        if isinstance(self._loss, MeanSquaredError):
            return (self._outputs(logits) - targets).square().mean(2)
        log_probabilities = logits.log_softmax(2)
        if isinstance(self._loss, WeightedCrossEntropy):
            targets = _divided_by_weights(targets, logits)
            return -(log_probabilities * targets).sum(2) * logits.shape[1]
        if targets.ndim == 2:
            target_log_probability = log_probabilities.gather(2, targets.unsqueeze(2)).squeeze(2)
        else:
            target_log_probability = (log_probabilities * targets).sum(2)
        if self.smoothing is None:
            return -target_log_probability
        return (self.smoothing - 1) * target_log_probability - self.smoothing * log_probabilities.mean(2)

    def gradient(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of each member's mean loss over n images with respect to its logits: (M, n, K)."""
        _, images, classes = logits.shape
        if isinstance(self._loss, MeanSquaredError):
            outputs = self._outputs(logits)
            # The derivative with respect to the outputs. The chain rule below leads to the logits.
            error = (outputs - targets).mul_(2 / (images * classes))
            match self._loss.output:
                case "raw":
                    return error
                case "sigmoid":
                    return error * outputs * (1 - outputs)
                case "softmax":
                    error = error * outputs
                    return error - outputs * error.sum(2, keepdim=True)
        if isinstance(self._loss, WeightedCrossEntropy):
            targets = _divided_by_weights(targets, logits)
            # The weighted targets of an image do not add up to 1, so the softmax is multiplied by their sum.
            return logits.softmax(2) * targets.sum(2, keepdim=True) - targets
        if self.smoothing is None:
            # Solo runs call ``F.cross_entropy``, so the gradient agrees with theirs to the last bit. Further down, the
            # smoothing differs between members, which that function does not allow.
            leaf = logits.detach().requires_grad_()
            flat_targets = targets.flatten(0, 1) if targets.ndim == 2 else targets.flatten(0, 1).to(leaf.dtype)
            loss = F.cross_entropy(leaf.flatten(0, 1), flat_targets, reduction="sum") / images
            return torch.autograd.grad(loss, leaf)[0]
        smoothing = self.smoothing.unsqueeze(2)
        probabilities = logits.softmax(2)
        if targets.ndim == 2:
            targets = torch.zeros_like(probabilities).scatter_(2, targets.unsqueeze(2), 1.0)
        targets = targets.to(logits.dtype) * (1 - smoothing) + smoothing / classes
        # The targets of mixed images add up to 1 only up to rounding, so the probabilities are multiplied by their sum.
        return (probabilities * targets.sum(2, keepdim=True) - targets).div_(images)

    def _outputs(self, logits: Tensor) -> Tensor:
        """Return the outputs that a mean squared error compares with the targets, (M, n, K)."""
        assert isinstance(self._loss, MeanSquaredError)
        return logits if self._loss.output == "raw" else self._loss.scores(logits.flatten(0, 1)).view_as(logits)


def _divided_by_weights(targets: Tensor, logits: Tensor) -> Tensor:
    """Divide encoded targets with class weights, (M, n, K + 1), by the sum of the images' weights: (M, n, K)."""
    targets = targets.to(logits.dtype)
    return targets[..., :-1] / targets[..., -1:].sum(1, keepdim=True)


class MemberLosses:
    """The members' ``losses`` of any class, called one after another and differentiated by autograd."""

    # ``StackedLoss`` has this attribute, too. Here each loss has its own smoothing.
    smoothing = None

    def __init__(self, losses: Sequence[Loss]) -> None:
        self._losses = list(losses)

    def with_smoothing(self, smoothing: Tensor | None) -> "MemberLosses":
        """Return these losses unchanged: each has its settings itself."""
        return self

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        """Encode labels as the losses do."""
        return self._losses[0].encode(targets, classes)

    def mean_and_gradient(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the members' mean losses, (M,), and their derivatives with respect to the logits, (M, n, K)."""
        leaf = logits.detach().requires_grad_()
        members = zip(self._losses, leaf, targets, strict=True)
        losses = torch.stack([loss(member_logits, member_targets) for loss, member_logits, member_targets in members])
        # With respect to one member's logits, the derivative of the sum is that of this member's loss.
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]

    def gradient(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of each member's mean loss with respect to its logits: (M, n, K)."""
        return self.mean_and_gradient(logits, targets)[1]
