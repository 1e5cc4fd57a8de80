"""A data set with one class more, "none": images that belong to no class of it, to learn what it does not know."""

from pathlib import Path

import torch

from digitlab.config.schema import NonNegativeInt, checked
from digitlab.core.errors import ConfigError
from digitlab.data.out_of_distribution import as_shape, noise_images
from digitlab.data.seeding import stream_seed
from digitlab.data.source import ImageSet, Source


class UnknownClassSource(Source):
    """``known`` with images of ``other`` and of noise added to its training set as the class "none".

    ``other_count`` are the first images of the other training set, made grey and scaled to fit; ``noise_count`` have
    uniform pixels. The test set stays the official one of ``known``, so that accuracy on it can be compared.
    ``ConfigError`` where the other set has fewer images.
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
        self.class_names = (*known.class_names, "none")
        self.margin_pixels = known.margin_pixels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.known.image_shape

    @property
    def train_count(self) -> int:
        return self.known.train_count + self.other_count + self.noise_count

    def prepare(self, root: Path) -> None:
        self.known.prepare(root)
        self.other.prepare(root)

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        train, test = self.known.read(root)
        other = self.other.read(root)[0].images[: self.other_count]
        # The same noise in every run: the images of a set are no matter of its seed.
        generator = torch.Generator().manual_seed(stream_seed("none", 0))
        strangers = [as_shape(other, self.image_shape), noise_images(self.noise_count, self.image_shape, generator)]
        added = [(images * 255).round().to(torch.uint8) for images in strangers]
        none = torch.full((self.other_count + self.noise_count,), len(self.known.class_names))
        return ImageSet(torch.cat([train.images, *added]), torch.cat([train.labels, none])), test
