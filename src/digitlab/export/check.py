"""Compares an export with the run it comes from, on images of the test set. N images, K classes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.training.classifier import Classifier
from digitlab.training.settings import Execution

# The largest difference of two probabilities that the order of float32 sums explains.
TOLERANCE = 1e-5
CHECKED_IMAGES = 1000
_BATCH_SIZE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well an export agrees with its run.

    ``largest_difference`` is that of two probabilities of the same class. ``changed_classes`` counts the images whose
    most probable class differs.
    """

    images: int
    largest_difference: float
    changed_classes: int

    def __str__(self) -> str:
        classes = "all classes are the same"
        if self.changed_classes:
            # Differences below the tolerance change a class only if two classes are equally probable.
            classes = f"{self.changed_classes} classes differ, because two classes are equally probable there"
        return (
            f"checked on {self.images:,} test images: the largest difference of a probability is "
            f"{self.largest_difference:.1e}, and {classes}"
        )


def some_images(images: Tensor, count: int = CHECKED_IMAGES) -> Tensor:
    """Return at most ``count`` images (n, C, H, W), evenly spread over a data set that may be sorted by class."""
    indices = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return images[indices]


@torch.no_grad()
def run_probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the run's probabilities (N, K) of uint8 images, in float32 or float64 even if it was trained in bf16."""
    execution, classifier.execution = classifier.execution, Execution()
    try:
        return torch.cat([classifier.loss.scores(classifier(part)) for part in images.split(_BATCH_SIZE)])
    finally:
        classifier.execution = execution


@torch.no_grad()
def compare(expected: Tensor, evaluate: Callable[[Tensor], Tensor], images: Tensor) -> Agreement:
    """Compare the outputs of ``evaluate`` for ``images`` with the probabilities ``expected`` (N, K).

    Raises ``RunError`` if a probability differs by more than ``TOLERANCE`` or is not finite.
    """
    found = torch.cat([evaluate(part) for part in images.split(_BATCH_SIZE)])
    difference = float((found - expected).abs().max())
    # In this form, it also holds for a difference that is not a number.
    if not difference <= TOLERANCE:
        raise RunError(
            f"no file is written, because the export does not compute what the run computes: on {len(images):,} test "
            f"images the probabilities differ by up to {difference:.1e}, and at most {TOLERANCE:.0e} is allowed"
        )
    changed = int((found.argmax(1) != expected.argmax(1)).sum())
    return Agreement(images=len(images), largest_difference=difference, changed_classes=changed)
