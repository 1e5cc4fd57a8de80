"""A data set with an additional class "none": images of another data set and noise, which a network learns to reject.

``conf/data/mnist_none.yaml`` uses it.
"""

from pathlib import Path

import torch

from digitlab.config.schema import NonNegativeInt, checked
from digitlab.core.errors import ConfigError
from digitlab.data.out_of_distribution import as_shape, noise_images
from digitlab.data.seeding import stream_seed
from digitlab.data.source import ImageSet, Source


class UnknownClassSource(Source):
    """The data set ``known`` with images of the data set ``other`` and of noise as an additional training class "none".

    The class has the first ``other_count`` training images of ``other``, converted to the shape of ``known``, and
    ``noise_count`` images of uniform random pixels. The test set is the official one of ``known``, without images of
    the class "none", so that accuracies can be compared with those of networks trained on ``known`` alone.

    Raises:
        ConfigError: ``other`` has fewer than ``other_count`` training images.
    """

    @checked
    def __init__(
        self, *, known: Source, other: Source, other_count: NonNegativeInt, noise_count: NonNegativeInt
    ) -> None:
        if other_count > other.train_count:
            raise ConfigError("other_count", other_count, f"must be at most {other.train_count}, as {other.title} has")
        self.known, self.other = known, other
        self.other_count, self.noise_count = other_count, noise_count
        self.name, self.title = f"{known.name}_none", f"{known.title} and none of it"
        self.unknown_class = "none"
        self.class_names = (*known.class_names, self.unknown_class)
        self.margin_pixels = known.margin_pixels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.known.image_shape

    @property
    def train_count(self) -> int:
        return self.known.train_count + self.other_count + self.noise_count

    def prepare(self, root: Path) -> None:
        """Prepare both data sets."""
        self.known.prepare(root)
        self.other.prepare(root)

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read both data sets and add the class "none" to the training set."""
        train, test = self.known.read(root)
        other = self.other.read(root)[0].images[: self.other_count]
        # All runs use the same noise: the images of a data set do not depend on a run's seed.
        generator = torch.Generator().manual_seed(stream_seed("none", 0))
        unknown = [as_shape(other, self.image_shape), noise_images(self.noise_count, self.image_shape, generator)]
        # Both are floats in [0, 1].
        unknown_images = [(images * 255).round().to(torch.uint8) for images in unknown]
        unknown_labels = torch.full((self.other_count + self.noise_count,), len(self.known.class_names))
        return ImageSet(torch.cat([train.images, *unknown_images]), torch.cat([train.labels, unknown_labels])), test
