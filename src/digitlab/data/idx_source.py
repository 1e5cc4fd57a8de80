"""``IdxSource``: a data set of the user's own in four IDX files. ``docs/add-a-data-set.md`` describes its use."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from digitlab.config.schema import NonNegativeInt, checked
from digitlab.core.errors import ConfigError, DataError
from digitlab.core.files import expand_home
from digitlab.data.checks import wrong_label
from digitlab.data.idx import check_label_count, idx_shape, image_shape, read_idx
from digitlab.data.source import ImageSet, Source


class IdxSource(Source):
    """A data set in four IDX files, plain or gzipped: images (N, H, W) or (N, C, H, W) and labels (N,), unsigned bytes.

    Paths are used as given, so a configuration may write ``${data.root}/letters/train-images``. ``title`` is the name
    in figures and messages (by default ``name``); ``margin_pixels`` is explained in ``Source``.

    Raises:
        ConfigError: ``class_names`` are not 2 to 256 different names.
    """

    @checked
    def __init__(
        self,
        *,
        name: str,
        title: str | None = None,
        class_names: Sequence[str],
        train_images: str | Path,
        train_labels: str | Path,
        test_images: str | Path,
        test_labels: str | Path,
        margin_pixels: NonNegativeInt | None = None,
    ) -> None:
        self.name, self.title, self.class_names = name, title or name, tuple(class_names)
        self.margin_pixels = margin_pixels
        if not 2 <= len(set(self.class_names)) == len(self.class_names) <= 256:
            raise ConfigError("class_names", list(class_names), "must be from 2 to 256 names, each of them once")
        self._train = expand_home(train_images), expand_home(train_labels)
        self._test = expand_home(test_images), expand_home(test_labels)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) in the header of the training images; raises ``DataError`` if the file does not hold images."""
        return image_shape(self._train[0], idx_shape(self._train[0]))

    @cached_property
    def train_count(self) -> int:
        """The number of training images in the header of their file; raises ``DataError`` as ``image_shape``."""
        return idx_shape(self._train[0])[0]

    def prepare(self, root: Path) -> None:
        """Check that the four files exist and fit each other; only their headers are read.

        Raises:
            DataError: as ``Source.prepare``.
        """
        for images_file, labels_file in (self._train, self._test):
            images_shape = idx_shape(images_file)
            check_label_count(images_file, images_shape, labels_file, idx_shape(labels_file))
            shape = image_shape(images_file, images_shape)
            if shape != self.image_shape:
                raise DataError(f"{images_file}: images {shape}, but {self._train[0]} has {self.image_shape}")

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read all four files as ``Source.read``."""
        train, test = (
            image_set(*files, read_idx(files[0]), read_idx(files[1]), class_count=len(self.class_names))
            for files in (self._train, self._test)
        )
        return train, test


def image_set(images_file: Path, labels_file: Path, images: Tensor, labels: Tensor, *, class_count: int) -> ImageSet:
    """Join images, uint8 (N, H, W) or (N, C, H, W), with their labels, uint8 (N,), and check that they fit.

    ``mnist_sources`` uses it, too. The files are named in error messages.

    Raises:
        DataError: the numbers of images and labels differ, or a label is not in 0 … ``class_count`` - 1.
    """
    check_label_count(images_file, images.shape, labels_file, labels.shape)
    problem = wrong_label(labels, class_count)
    if problem is not None:
        raise DataError(f"{labels_file}: {problem}")
    return ImageSet(images.view(-1, *image_shape(images_file, images.shape)), labels.long())
