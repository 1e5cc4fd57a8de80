"""The losses of a population and their gradients, each member's with its own label smoothing."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from digitlab.optim.losses import CrossEntropy, Loss, MeanSquaredError

# Those that have a stacked form here; any other loss trains one by one.
STACKABLE = (CrossEntropy, MeanSquaredError)


class StackedLoss:
    """The loss of members that have the same one but for its numbers: ``smoothing`` (M, 1) or None."""

    def __init__(self, loss: Loss, smoothing: Tensor | None) -> None:
        self._loss, self.smoothing = loss, smoothing

    @classmethod
    def of(cls, losses: Sequence[Loss], *, device: torch.device, dtype: torch.dtype) -> "StackedLoss":
        """That of members with ``losses``; ``dtype`` is that of the logits."""
        smoothing = [loss.label_smoothing for loss in losses if isinstance(loss, CrossEntropy)]
        stacked = torch.tensor(smoothing, device=device, dtype=dtype).unsqueeze(1) if any(smoothing) else None
        return cls(losses[0], stacked)

    def given(self, smoothing: Tensor | None) -> "StackedLoss":
        """The same for other members."""
        return StackedLoss(self._loss, smoothing)

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        """As the members' own loss does."""
        return self._loss.encode(targets, classes)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (M, n, K) and encoded targets, (M, n) or (M, n, K), to the loss of each image, (M, n)."""
        if isinstance(self._loss, MeanSquaredError):
            return (self._outputs(logits) - targets).square().mean(2)
        log_probabilities = logits.log_softmax(2)
        if targets.ndim == 2:
            chosen = log_probabilities.gather(2, targets.unsqueeze(2)).squeeze(2)
        else:
            chosen = (log_probabilities * targets).sum(2)
        if self.smoothing is None:
            return -chosen
        return (self.smoothing - 1) * chosen - self.smoothing * log_probabilities.mean(2)

    def gradient(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The gradient of each member's mean loss over the n images by its logits: (M, n, K)."""
        _, images, classes = logits.shape
        if isinstance(self._loss, MeanSquaredError):
            outputs = self._outputs(logits)
            error = (outputs - targets).mul_(2 / (images * classes))
            match self._loss.output:
                case "raw":
                    return error
                case "sigmoid":
                    return error * outputs * (1 - outputs)
                case "softmax":
                    error = error * outputs
                    return error - outputs * error.sum(2, keepdim=True)
        if self.smoothing is None:
            # By torch itself, so that the last digit is the solo run's.
            leaf = logits.detach().requires_grad_()
            flat = targets.flatten(0, 1) if targets.ndim == 2 else targets.flatten(0, 1).to(leaf.dtype)
            loss = F.cross_entropy(leaf.flatten(0, 1), flat, reduction="sum") / images
            return torch.autograd.grad(loss, leaf)[0]
        smoothing = self.smoothing.unsqueeze(2)
        probabilities = logits.softmax(2)
        if targets.ndim == 2:
            targets = torch.zeros_like(probabilities).scatter_(2, targets.unsqueeze(2), 1.0)
        targets = targets.to(logits.dtype) * (1 - smoothing) + smoothing / classes
        # Mixed labels may miss 1 in their last digit.
        return (probabilities * targets.sum(2, keepdim=True) - targets).div_(images)

    def _outputs(self, logits: Tensor) -> Tensor:
        """What a mean squared error compares with the targets."""
        assert isinstance(self._loss, MeanSquaredError)
        return logits if self._loss.output == "raw" else self._loss.scores(logits.flatten(0, 1)).view_as(logits)
