"""Augmentations: what a mini-batch goes through between the data set and the model, on the training device.

Every image draws for itself, and every draw comes from the generator that is handed in, so a batch is a pure function
of the generator's seed. Shapes: N images, C channels, H rows, W columns, K classes. Pixels lie in [0, 1], 0 is black;
normalisation comes later. The batch handed in is left as it is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError
from torch import Generator, Tensor

from digitlab.config.schema import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, settings
from digitlab.core.errors import ConfigError
from digitlab.data.seeding import coins, stream_seed
from digitlab.data.smooth import smoothed
from digitlab.data.warp import pixel_centres, reflected, sample_at


def _ordered(bounds: object, check: ValidatorFunctionWrapHandler) -> tuple[float, float]:
    if isinstance(bounds, list | tuple) and len(bounds) == 2:
        least, greatest = check(tuple(bounds))
        if least <= greatest:
            return least, greatest
    raise PydanticCustomError("bounds", "must be [least, greatest], two numbers in that order")


Bounds = Annotated[tuple[PositiveFloat, PositiveFloat], WrapValidator(_ordered)]
Batch = tuple[Tensor, Tensor]  # images and targets


class Stage(IntEnum):
    """When an augmentation takes its turn."""

    SHAPE = 0  # moves pixels
    VALUE = 1  # changes their values; on moved pixels, so that no interpolation smooths the noise away
    ERASE = 2  # removes them; late, so that nothing blurs or warps the edge of the hole
    MIX = 3  # joins images; last, as what comes after could no longer tell them apart


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """Where in a run a mini-batch stands: ``indices`` (N,) of its images in their set, epoch from 0, the run's seed."""

    indices: Tensor
    epoch: int
    seed: int


class Augmentation(ABC):
    """The base of all augmentations, ours and a user's; without a ``stage`` of its own one counts among the values."""

    stage: ClassVar[Stage] = Stage.VALUE

    def at(self, place: BatchContext) -> "Augmentation":
        """What it does there: itself, unless what an image goes through depends on its other epochs."""
        return self

    @abstractmethod
    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        """Return new images and targets.

        ``images`` is a float (N, C, H, W) in [0, 1], and so is what comes back, of the same shape, dtype and device;
        ``targets`` is an int64 (N,) of classes, or a float (N, K) of class probabilities once they have been mixed;
        ``classes`` is K; ``generator`` lives on the device of the images.
        """


class Compose(Augmentation):
    """Augmentations one after the other, by stage and then by class name, however they were listed; none: identity."""

    def __init__(self, augmentations: Iterable[Augmentation] = ()) -> None:
        self.augmentations = sorted(augmentations, key=lambda each: (each.stage, type(each).__name__))

    def __len__(self) -> int:
        return len(self.augmentations)

    def at(self, place: BatchContext) -> "Compose":
        placed = Compose()
        placed.augmentations = [each.at(place) for each in self.augmentations]
        return placed

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        for augmentation in self.augmentations:
            images, targets = augmentation(images, targets, classes=classes, generator=generator)
        return images, targets


@settings
class Shift(Augmentation):
    """Pad by ``padding`` pixels on all sides, then cut a window of the old size anywhere out of the result.

    The padding is black, or the image reflected about its outermost pixels (again and again where it is small).
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    padding: PositiveInt = 4
    fill: Literal["zero", "reflect"] = "zero"

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        count, (height, width) = len(images), images.shape[2:]
        # (N, C, 2 padding + 1, 2 padding + 1, H, W): a view of all windows, of which each image keeps one.
        padded = F.pad(images, [self.padding] * 4) if self.fill == "zero" else reflected(images, self.padding)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = torch.randint(2 * self.padding + 1, (2, count), generator=generator, device=images.device)
        return windows[torch.arange(count, device=images.device), :, top, left], targets


@settings
class Flip(Augmentation):
    """Mirror left and right, with the given probability.

    ``alternating`` draws for the first epoch only and mirrors each image in every other one, so that any two epochs
    that follow each other show both sides of all images (Jordan, 2024).
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    probability: Fraction = 0.5
    alternating: bool = False

    def __post_init__(self) -> None:
        if self.alternating and self.probability != 0.5:
            raise ConfigError("alternating", True, "needs probability=0.5: each image is mirrored every other time")

    def at(self, place: BatchContext) -> Augmentation:
        if not self.alternating:
            return self
        return _Mirror(coins(stream_seed("flip", place.seed), place.indices) ^ (place.epoch % 2 == 1))

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        mirror = _Mirror(_uniform(images, generator).flatten() < self.probability)
        return mirror(images, targets, classes=classes, generator=generator)


class _Mirror(Augmentation):
    """Mirrors the images that are ``chosen``, bool (N,)."""

    def __init__(self, chosen: Tensor) -> None:
        self._chosen = chosen.view(-1, 1, 1, 1)

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        return torch.where(self._chosen, images.flip(3), images), targets


@settings
class Affine(Augmentation):
    """Rotate, scale and shear about the centre of the image, interpolated bilinearly, with black around it.

    The angle is uniform within ±``degrees``, the horizontal shear within ±``shear_degrees``, the scale between its two
    bounds (above 1 enlarges).
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    scale: Bounds = (0.9, 1.1)
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 0.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        angle, shear, scale = (
            _uniform(images, generator, low, high).flatten()
            for low, high in (
                (-math.radians(self.degrees), math.radians(self.degrees)),
                (-math.radians(self.shear_degrees), math.radians(self.shear_degrees)),
                self.scale,
            )
        )
        # From output to input: the inverse of scale · rotation · shear, in pixels, which are square.
        cos, sin, tan = angle.cos() / scale, angle.sin() / scale, shear.tan()
        inverse = torch.stack([cos + tan * sin, sin - tan * cos, -sin, cos], dim=1).view(-1, 2, 2)
        points = (inverse @ pixel_centres(images).flatten(1)).view(-1, 2, *images.shape[2:])
        return sample_at(images, points), targets


@settings
class Elastic(Augmentation):
    """Elastic deformation (Simard, Steinkraus and Platt, 2003): every pixel moves, neighbours together.

    Displacements are uniform noise in [-1, 1], smoothed by a Gaussian of ``sigma_pixels`` and times ``alpha_pixels``.
    Away from the border the root mean square along each axis is about 0.16 ``alpha_pixels`` / ``sigma_pixels``,
    1.4 pixels with the defaults, which are the paper's for MNIST. Interpolated bilinearly, with black around the image.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    alpha_pixels: NonNegativeFloat = 34.0
    sigma_pixels: PositiveFloat = 4.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        noise = images.new_empty(len(images), 2, *images.shape[2:]).uniform_(-1, 1, generator=generator)
        displacement = self.alpha_pixels * smoothed(noise, images.new_full((1,), self.sigma_pixels))
        return sample_at(images, pixel_centres(images) + displacement), targets


@settings
class Pen(Augmentation):
    """Strokes of another width: each image's light parts grow or shrink by up to a pixel on every side.

    The change in pixels is uniform from -``thinner_pixels`` to ``thicker_pixels``. Grey dilation and erosion by a
    square of 3 x 3 (Serra, 1982) change by a whole pixel; between them and the image as it is, it is interpolated.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    thicker_pixels: Fraction = 1.0
    thinner_pixels: Fraction = 0.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        pixels = _uniform(images, generator, -self.thinner_pixels, self.thicker_pixels)
        thicker = F.max_pool2d(images, 3, stride=1, padding=1)
        # Erosion is dilation of the dark; beyond the border nothing is dark or light.
        thinner = -F.max_pool2d(-images, 3, stride=1, padding=1)
        return torch.lerp(images, torch.where(pixels > 0, thicker, thinner), pixels.abs()), targets


@settings
class Blur(Augmentation):
    """Gaussian blur of a standard deviation that is uniform in ``sigma_pixels``, with the given probability."""

    stage: ClassVar[Stage] = Stage.VALUE
    sigma_pixels: Bounds = (0.1, 1.5)
    probability: Fraction = 0.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        chosen = _uniform(images, generator) < self.probability
        sigma_pixels = _uniform(images, generator, *self.sigma_pixels).flatten()
        return torch.where(chosen, smoothed(images, sigma_pixels).clamp(0, 1), images), targets


@settings
class Noise(Augmentation):
    """Add Gaussian noise of standard deviation ``std``, in units of the pixels' range, and clamp to that range."""

    stage: ClassVar[Stage] = Stage.VALUE
    std: NonNegativeFloat = 0.1

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        noise = torch.empty_like(images).normal_(0, self.std, generator=generator)
        return noise.add_(images).clamp_(0, 1), targets


@settings
class Cutout(Augmentation):
    """Paint over a square of ``size_pixels`` (DeVries and Taylor, 2017) with the grey value ``fill``.

    Its centre is anywhere in the image, so a part of it may lie outside. The paper fills with the data set's mean, for
    CIFAR-10 a ``fill`` of 0.47; on MNIST black is the background.
    """

    stage: ClassVar[Stage] = Stage.ERASE
    size_pixels: PositiveInt = 8
    fill: Fraction = 0.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        inside = []
        for length in images.shape[2:]:
            centre = torch.randint(length, (len(images), 1), generator=generator, device=images.device)
            offset = torch.arange(length, device=images.device) - (centre - self.size_pixels // 2)
            inside.append((offset >= 0) & (offset < self.size_pixels))
        rows, columns = inside
        return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], self.fill), targets


@settings
class MixUp(Augmentation):
    """Mix each image and its target with those of another image of the batch (Zhang et al., 2018).

    The share an image keeps is drawn from Beta(``alpha``, ``alpha``): below 1 mostly near 0 or 1, uniform at 1. Targets
    come back as class probabilities, a float (N, K) of the images' dtype whose rows sum to one.
    """

    stage: ClassVar[Stage] = Stage.MIX
    alpha: PositiveFloat = 0.2

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        if targets.ndim == 1:
            targets = F.one_hot(targets, classes)
        targets = targets.to(images.dtype)
        partner = torch.randperm(len(images), generator=generator, device=images.device)
        share = self._share(images, generator)
        # lerp never leaves the range between its ends, which a sum of two products may do by rounding.
        mixed = torch.lerp(images[partner], images, share)
        return mixed, torch.lerp(targets[partner], targets, share.flatten(1))

    def _share(self, images: Tensor, generator: Generator) -> Tensor:
        # PyTorch's own beta distribution takes no generator. This closed form (Devroye, "Random variate generation in
        # one line of code", 1996) is exact for a symmetric beta and needs two uniform numbers. Large powers may
        # overflow to infinity, which leads to the right limits, 0 and 1.
        power = torch.expm1(-_uniform(images, generator).log() / self.alpha)
        cos = (2 * math.pi * _uniform(images, generator)).cos()
        return 0.5 + 0.5 * cos.sign() / (1 + 1 / (power * cos**2)).sqrt()


def _uniform(images: Tensor, generator: Generator, low: float = 0, high: float = 1) -> Tensor:
    """One number an image, (N, 1, 1, 1), of the images' dtype."""
    return images.new_empty(len(images), 1, 1, 1).uniform_(low, high, generator=generator)
