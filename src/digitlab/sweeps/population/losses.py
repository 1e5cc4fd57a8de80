"""The losses of a population: each member's mean over its mini-batch, with its own label smoothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from digitlab.training.losses import CrossEntropy, Loss, MeanSquaredError

# Those that have a stacked form here; any other loss trains one by one.
STACKABLE = (CrossEntropy, MeanSquaredError)


class StackedLoss:
    """The loss of members that have the same one but for its numbers; ``dtype`` is that of the logits."""

    def __init__(self, losses: Sequence[Loss], *, device: torch.device, dtype: torch.dtype) -> None:
        self._loss = losses[0]
        smoothing = [loss.label_smoothing for loss in losses if isinstance(loss, CrossEntropy)]
        self._smoothing = torch.tensor(smoothing, device=device, dtype=dtype) if any(smoothing) else None

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        """As the members' own loss does."""
        return self._loss.encode(targets, classes)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (M, n, K) and encoded targets, (M, n) or (M, n, K), to the mean losses (M,)."""
        if isinstance(self._loss, MeanSquaredError):
            outputs = logits if self._loss.output == "raw" else self._loss.scores(logits.flatten(0, 1)).view_as(logits)
            return (outputs - targets).square().mean((1, 2))
        log_probabilities = logits.log_softmax(2)
        if targets.ndim == 2:
            chosen = log_probabilities.gather(2, targets.unsqueeze(2)).squeeze(2)
        else:
            chosen = (log_probabilities * targets).sum(2)
        losses = -chosen.mean(1)
        if self._smoothing is not None:
            losses = losses * (1 - self._smoothing) - log_probabilities.mean((1, 2)) * self._smoothing
        return losses
