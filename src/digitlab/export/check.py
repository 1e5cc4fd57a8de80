"""Compares an export with the run it comes from, on images of the test set, before the export is written.

``run`` and ``demo`` call it. N images, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.data.sampling import spread_evenly
from digitlab.training.classifier import Classifier
from digitlab.training.settings import Execution

# The largest allowed difference of two probabilities. The order of sums in float32 can cause differences of this size.
_TOLERANCE = 1e-5
_CHECKED_IMAGES = 1000
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


def some_images(images: Tensor) -> Tensor:
    """Return at most 1,000 of the images (N, C, H, W), spread evenly over them, because they may be sorted by class."""
    return spread_evenly(images, _CHECKED_IMAGES)


@torch.no_grad()
def run_probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the run's probabilities (N, K) of uint8 images, in float32 or float64 even if it was trained in bf16."""
    # The default settings compute without bf16, as exports do.
    execution, classifier.execution = classifier.execution, Execution()
    try:
        return torch.cat([classifier.loss.scores(classifier(part)) for part in images.split(_BATCH_SIZE)])
    finally:
        classifier.execution = execution


@torch.no_grad()
def compare(expected: Tensor, evaluate: Callable[[Tensor], Tensor], images: Tensor) -> Agreement:
    """Compare the outputs of ``evaluate`` for ``images`` with the probabilities ``expected`` (N, K).

    Raises ``RunError`` if a probability differs by more than 1e-5 or is not finite.
    """
    actual = torch.cat([evaluate(part) for part in images.split(_BATCH_SIZE)])
    difference = float((actual - expected).abs().max())
    # Not ``difference > _TOLERANCE``, which is false if the difference is not a number.
    if not difference <= _TOLERANCE:
        raise RunError(
            f"no file is written, because the export does not compute what the run computes: on {len(images):,} test "
            f"images the probabilities differ by up to {difference:.1e}, and at most {_TOLERANCE:.0e} is allowed"
        )
    changed = int((actual.argmax(1) != expected.argmax(1)).sum())
    return Agreement(images=len(images), largest_difference=difference, changed_classes=changed)
