"""Metrics from counts: the loss summed over images and the confusion matrix, read once a pass.

K classes, N images. The counts are whole numbers, so neither the length of a chunk nor the order of the passes changes
a metric, and nothing but two additions a chunk is paid for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("loss", "accuracy", "balanced_accuracy", "f1", "f1_weighted")


@dataclass(slots=True)
class Counts:
    """The sums of one pass: ``confusion`` int64 (K, K), true class by predicted class; ``loss_sum`` over the images."""

    confusion: Tensor
    loss_sum: float = 0.0

    @classmethod
    def zeros(cls, classes: int, device: torch.device) -> "Counts":
        return cls(torch.zeros(classes, classes, dtype=torch.int64, device=device))

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count predictions: logits (N, K), labels int64 (N,)."""
        self.confusion += confusions(logits.unsqueeze(0), labels.unsqueeze(0))[0]

    def add_losses(self, losses: Sequence[float], sizes: Sequence[int]) -> None:
        """Add the mean losses of mini-batches of so many images each."""
        # One after the other: by a sum of its own for each chunk, rounding would depend on where chunks end.
        for loss, size in zip(losses, sizes, strict=True):
            self.loss_sum += loss * size

    def metrics(self) -> dict[str, float]:
        """Return the metrics of ``NAMES``; all are nan if no image was counted.

        ``balanced_accuracy`` is the mean recall of the classes that occur. ``f1`` is the plain mean of the classes' F1,
        ``f1_weighted`` the mean weighted by the frequency of the classes.
        """
        confusion = self.confusion.double().cpu()
        images = float(confusion.sum())
        if images == 0:
            return dict.fromkeys(NAMES, float("nan"))
        hits, support = confusion.diagonal(), confusion.sum(1)
        # As everywhere (scikit-learn, torchmetrics): a class neither seen nor predicted has no F1 and does not count.
        seen = (support + confusion.sum(0)) > 0
        f1 = 2 * hits / (support + confusion.sum(0)).clamp(min=1)
        occurring = support > 0
        return {
            "loss": self.loss_sum / images,
            "accuracy": float(hits.sum()) / images,
            "balanced_accuracy": float((hits[occurring] / support[occurring]).mean()),
            "f1": float(f1[seen].mean()),
            "f1_weighted": float((f1 * support).sum()) / images,
        }

    def class_accuracy(self, class_names: Sequence[str]) -> dict[str, float]:
        """The share of each class that was recognised, for the classes that occur."""
        confusion = self.confusion.double().cpu()
        pairs = zip(class_names, confusion.diagonal(), confusion.sum(1), strict=True)
        return {name: float(hits / support) for name, hits, support in pairs if support > 0}


def total(parts: Sequence[Counts]) -> Counts:
    """The sum of the counts of several processes, in their order."""
    confusion = torch.stack([part.confusion for part in parts]).sum(0)
    return Counts(confusion, sum(part.loss_sum for part in parts))


def confusions(logits: Tensor, labels: Tensor) -> Tensor:
    """Confusion matrices of M networks: logits (M, n, K) and labels int64 (M, n) to counts int64 (M, K, K).

    Rows are true classes, columns predicted ones.
    """
    members, _, classes = logits.shape
    # max, not argmax, which takes half as long again over so few classes.
    first_cell = torch.arange(members, device=logits.device).unsqueeze(1) * classes * classes
    cells = first_cell + labels * classes + logits.max(2).indices
    # Not bincount, for which the host waits: it has CUDA tell it how many cells there are.
    counts = torch.zeros(members * classes * classes, dtype=torch.int64, device=logits.device)
    return counts.scatter_add_(0, cells.flatten(), torch.ones_like(cells).flatten()).view(members, classes, classes)
