"""The interface of data sets: a ``Source`` describes a data set and reads it as two ``ImageSet``s.

The classes in ``sources`` and ``unknown_class`` implement it; ``ImageData`` uses it. N images, C channels, H rows, W
columns, K classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images, one uint8 tensor (N, C, H, W) with values 0 … 255, and labels, int64 (N,) with values 0 … K - 1."""

    images: Tensor
    labels: Tensor


class Source(ABC):
    """A data set of K classes with an official training set and an official test set.

    ``name`` is its name in configurations, ``title`` its name in figures and messages, and ``class_names`` has K names.
    ``margin_pixels`` describes data sets whose images are one light figure on black, cropped and scaled: it is the
    width of the black margin around the figure. It is None if images are whole pictures.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    margin_pixels: int | None = None
    # The name in class_names for images that belong to no real class; None if there are no such images.
    unknown_class: str | None = None
    # The number of validation images that come with the data set; they are the last images of the training set. None if
    # no validation images come with it: then ``ImageData`` takes some of the training images for validation.
    val_count: int | None = None
    # Identifies the content of the files that ``read`` has read; None for published data sets, which never change.
    fingerprint: str | None = None

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    @property
    @abstractmethod
    def train_count(self) -> int:
        """The number of images in the official training set, which is split into training and validation."""

    @abstractmethod
    def prepare(self, root: Path) -> None:
        """Make sure that the files are on this machine; download missing ones into the folder ``root``.

        Raises:
            DataError: a file is missing and cannot be downloaded; the message says what was tried and what the user can
                do.
        """

    @abstractmethod
    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read the official training set and the official test set; call ``prepare`` first.

        Raises:
            DataError: a file is missing, is damaged or is another file, or images and labels do not fit; the message
                names the file.
        """
