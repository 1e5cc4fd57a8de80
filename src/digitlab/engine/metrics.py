"""Metrics of a pass over images, such as a validation, computed from a confusion matrix and the sum of the losses.

Training, validation and test use it. A confusion matrix holds whole numbers, so neither the chunk length nor the order
of the images changes a metric, and a chunk costs only two additions. K classes, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from digitlab.config.metrics import NAMES
from digitlab.engine.device import as_numbers, reads_at_once


@dataclass(slots=True)
class Counts:
    """The sums of one pass over the images, to which each mini-batch is added.

    ``confusion``, int64 (K, K), counts images by true class (row) and predicted class (column). ``loss_sum`` is the sum
    of the losses of all images.
    """

    confusion: Tensor
    loss_sum: float = 0.0

    @classmethod
    def zeros(cls, classes: int, device: torch.device) -> "Counts":
        """The counts before the first image."""
        return cls(torch.zeros(classes, classes, dtype=torch.int64, device=device))

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count the predictions of logits (N, K) for labels int64 (N,)."""
        self.confusion += confusions(logits.unsqueeze(0), labels.unsqueeze(0))[0]

    def add_losses(self, losses: Sequence[float], sizes: Sequence[float]) -> None:
        """Add the mean ``losses`` of mini-batches with ``sizes`` images, or with these sums of the images' weights."""
        # Add one mini-batch at a time. If each chunk were summed first, rounding would depend on where chunks end.
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
        occurrences = support + confusion.sum(0)  # as true class and as predicted class
        # As in scikit-learn and torchmetrics: a class that never occurs has no F1 and does not count in the mean.
        has_f1 = occurrences > 0
        f1 = 2 * hits / occurrences.clamp(min=1)
        has_recall = support > 0
        return {
            "loss": self.loss_sum / images,
            "accuracy": float(hits.sum()) / images,
            "balanced_accuracy": float((hits[has_recall] / support[has_recall]).mean()),
            "f1": float(f1[has_f1].mean()),
            "f1_weighted": float((f1 * support).sum()) / images,
        }

    def class_accuracy(self, class_names: Sequence[str]) -> dict[str, float]:
        """Return the share of each class's images that were classified correctly; leave out classes without images."""
        confusion = self.confusion.double().cpu()
        pairs = zip(class_names, confusion.diagonal(), confusion.sum(1), strict=True)
        return {name: float(hits / support) for name, hits, support in pairs if support > 0}


def sum_counts(parts: Sequence[Counts]) -> Counts:
    """Add up the counts of several processes, in their order, so that every process gets the same rounded sum."""
    confusion = torch.stack([part.confusion for part in parts]).sum(0)
    return Counts(confusion, sum(part.loss_sum for part in parts))


def gather_counts(counts: Counts, *, processes: int) -> list[Counts]:
    """Return the counts of every process; this process has ``counts``. All processes must call this together."""
    if processes == 1:
        return [counts]
    loss_sum = torch.tensor(counts.loss_sum, device=counts.confusion.device, dtype=torch.float64)
    confusions = [torch.empty_like(counts.confusion) for _ in range(processes)]
    loss_sums = [torch.empty_like(loss_sum) for _ in range(processes)]
    torch.distributed.all_gather(confusions, counts.confusion)
    torch.distributed.all_gather(loss_sums, loss_sum)
    return [Counts(confusion, loss.item()) for confusion, loss in zip(confusions, loss_sums, strict=True)]


class Evaluation:
    """Collects the counts of a validation or test of one network, without waiting for the device in between."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts = Counts.zeros(classes, device)
        self._reads_at_once = reads_at_once(device)
        # The mean losses of the batches, and what their means divide by: the images, or the sum of their weights.
        self._losses: list[Tensor | float] = []
        self._weights: list[Tensor | float] = []

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor, weight: Tensor | None) -> None:
        """Add a batch: logits (N, K), labels int64 (N,), the mean loss, and the sum of the images' weights if any."""
        self._counts.add(logits, labels)
        self._losses.append(loss.item() if self._reads_at_once else loss)
        self._weights.append(float(len(labels)) if weight is None else weight)

    def counts(self) -> Counts:
        """Return the counts of all batches so far. Reading them waits for the device."""
        losses, weights = as_numbers(self._losses), as_numbers(self._weights)
        self._losses, self._weights = [*losses], [*weights]
        self._counts.loss_sum = 0.0
        self._counts.add_losses(losses, weights)
        images = float(self._counts.confusion.sum())
        if sum(weights) != images:
            # With class weights, the mean loss divides by the sum of all weights. ``metrics`` divides by the number of
            # images.
            self._counts.loss_sum *= images / sum(weights)
        return self._counts


def confusions(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the confusion matrices of M networks, int64 (M, K, K), from logits (M, n, K) and labels int64 (M, n).

    Rows are true classes, columns are predicted classes.
    """
    members, _, classes = logits.shape
    # All matrices are counted at once: their cells are numbered one after the other. With about ten classes, ``argmax``
    # takes 1.5 times as long as ``max``.
    first_cell = torch.arange(members, device=logits.device).unsqueeze(1) * classes * classes
    cells = first_cell + labels * classes + logits.max(2).indices
    # bincount would make the host wait for CUDA, because its result has as many cells as the largest value.
    counts = torch.zeros(members * classes * classes, dtype=torch.int64, device=logits.device)
    return counts.scatter_add_(0, cells.flatten(), torch.ones_like(cells).flatten()).view(members, classes, classes)
