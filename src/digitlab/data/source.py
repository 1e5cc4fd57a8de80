"""What a data set is to all that comes after it: its names, and whole sets of images, each as one uint8 tensor."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images, uint8 (N, C, H, W) in 0 … 255, and their labels, int64 (N,) in 0 … K - 1."""

    images: Tensor
    labels: Tensor


class Source(ABC):
    """A data set of K classes, ``class_names``, with an official training and test set of C × H × W images.

    ``name`` is what a configuration calls it, ``title`` what a reader does. Where each image is one figure, light on
    black, cut out and scaled, ``margin_pixels`` is the black frame left around it; None where it is a whole picture.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    margin_pixels: int | None = None

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""

    @property
    @abstractmethod
    def train_count(self) -> int:
        """N of the official training set, which is split into training and validation."""

    @abstractmethod
    def prepare(self, root: Path) -> None:
        """See that the files are there, under ``root`` or elsewhere on this machine; fetch into ``root`` what is not.

        Raises:
            DataError: they are neither here nor to be had; the message says what was tried and what one can do.
        """

    @abstractmethod
    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """The official training set and the official test set, after ``prepare``.

        Raises:
            DataError: a file is missing, damaged, swapped for another or does not fit its partner; it is named.
        """
