"""The interface of augmentations: ``Augmentation``, ``Compose``, which applies several in order, and random draws.

``augment`` and ``corrupt`` implement it; ``chunks`` applies it to mini-batches. Shapes: N images, C channels, H rows,
W columns, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from torch import Generator, Tensor

Batch = tuple[Tensor, Tensor]  # images and targets


class Stage(IntEnum):
    """The position of an augmentation in the order in which they are applied."""

    SHAPE = 0  # moves pixels
    VALUE = 1  # changes pixel values; after SHAPE, so that no interpolation smooths the noise away
    ERASE = 2  # covers pixels; after VALUE, so that nothing blurs or warps the edge of the hole
    MIX = 3  # combines images; last, because the others work on single images


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """The position of a mini-batch in a run.

    ``indices`` int64 (N,) are the positions of its images in the data set, ``epoch`` counts from 0, and ``seed`` is the
    seed of the run.
    """

    indices: Tensor
    epoch: int
    seed: int


class Augmentation(ABC):
    """The base class of all augmentations, including those that users write.

    A subclass that does not set ``stage`` is applied with those that change pixel values.
    """

    stage: ClassVar[Stage] = Stage.VALUE

    def at(self, context: BatchContext) -> "Augmentation":
        """Return the augmentation for one mini-batch, by default this object itself.

        Override it if the augmentation depends on the epoch or on which images the mini-batch has, as ``Flip`` does.
        """
        return self

    @abstractmethod
    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        """Return new images and targets; do not change the arguments.

        ``images`` is a float tensor (N, C, H, W) with values in [0, 1], where 0 is black; normalisation comes later.
        The returned images have the same shape, dtype, device and range. ``targets`` is an int64 tensor (N,) of
        classes, or a float tensor (N, K) of class probabilities if images were mixed; ``classes`` is K. ``generator``
        is on the device of the images. All random numbers must come from it, one draw for each image, so that a
        mini-batch is a pure function of the generator's seed.
        """


class Compose(Augmentation):
    """Several augmentations applied in order of stage, and of class name within a stage; with none it is the identity.

    The order does not depend on the order of the list.
    """

    def __init__(self, augmentations: Iterable[Augmentation] = ()) -> None:
        self.augmentations = sorted(augmentations, key=lambda each: (each.stage, type(each).__name__))

    def __len__(self) -> int:
        return len(self.augmentations)

    def at(self, context: BatchContext) -> "Compose":
        """Return the composition of what ``at`` returns for each of the augmentations."""
        composed = Compose()
        # Assigned afterwards, because the constructor would sort what ``at`` returns by its own stage and class name.
        composed.augmentations = [each.at(context) for each in self.augmentations]
        return composed

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        for augmentation in self.augmentations:
            images, targets = augmentation(images, targets, classes=classes, generator=generator)
        return images, targets


def uniform(images: Tensor, generator: Generator, low: float = 0, high: float = 1) -> Tensor:
    """Return a uniform random number in [``low``, ``high``) for each image: (N, 1, 1, 1), dtype of ``images``."""
    return images.new_empty(len(images), 1, 1, 1).uniform_(low, high, generator=generator)
