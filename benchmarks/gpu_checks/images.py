"""The images of the checks: each data set is read once in a process, and random images replace a missing CIFAR-10."""

from functools import cache
from pathlib import Path

import torch

from digitlab.config.compose import compose
from digitlab.core.errors import DataError
from digitlab.data.source import ImageSet
from digitlab.data.sources import Cifar10Source, MnistSource
from digitlab.training.experiment import Experiment

Images = tuple[ImageSet, ImageSet]
# Training and test images: as many as CIFAR-10 has, or a few for a quick check.
_ALL, _FEW = (50_000, 10_000), (400, 100)


@cache
def use_images(*, quick: bool) -> bool:
    """Read MNIST and CIFAR-10 once in this process, and train on random images without the files of CIFAR-10.

    A ``quick`` check always takes a few random images. Returns whether those of CIFAR-10 are real. Runs do not write to
    images, so they can share them.
    """
    # The package contains MNIST, so its folder does not matter.
    mnist = MnistSource().read(Path())
    real = None if quick else _files()
    cifar10 = real or _random(_FEW if quick else _ALL)
    for source, images in ((MnistSource, mnist), (Cifar10Source, cifar10)):
        source.prepare = lambda self, root: None  # type: ignore[method-assign]
        source.read = lambda self, root, images=images: images  # type: ignore[method-assign, misc]
    return real is not None


def _files() -> Images | None:
    data = Experiment.from_config(compose(["data=cifar10"]), typed=()).data
    try:
        return data.source.read(Path(data.root))
    except (DataError, OSError):
        return None


def _random(counts: tuple[int, int]) -> Images:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> ImageSet:
        pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(count) % 10)

    return images(counts[0]), images(counts[1])
