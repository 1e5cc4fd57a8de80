"""The augmentations that ``conf/augment/`` offers: random changes of the training images before they are normalised.

Each is a settings class that implements ``augment_base.Augmentation``: it takes and returns the images of a mini-batch,
float (N, C, H, W) in [0, 1], and their targets, with one independent draw for each image. Targets are classes, int64
(N,), or class probabilities, float (N, K), if images were mixed. If a run has several augmentations, ``Compose``
applies them in the order of their ``stage``. Lengths are in pixels. C channels, H rows, W columns, K classes.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError
from torch import Generator, Tensor

from digitlab.config.schema import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, settings
from digitlab.core.errors import ConfigError
from digitlab.data.augment_base import Augmentation, Batch, BatchContext, Compose, Stage, uniform
from digitlab.data.seeding import coin_flips, stream_seed
from digitlab.data.smooth import smoothed
from digitlab.data.strokes import dilate, erode
from digitlab.data.warp import pixel_centres, reflected, sample_at

__all__ = [
    "Affine", "Augmentation", "Batch", "BatchContext", "Blur", "Compose", "Cutout", "Elastic", "Flip", "MixUp", "Noise",
    "Pen", "Shift", "Stage",
]  # fmt: skip


def _ordered_bounds(bounds: object, check: ValidatorFunctionWrapHandler) -> tuple[float, float]:
    """Check that a setting is a list of two numbers, the smaller one first, and return it as a tuple."""
    if isinstance(bounds, list | tuple) and len(bounds) == 2:
        least, greatest = check(tuple(bounds))
        if least <= greatest:
            return least, greatest
    raise PydanticCustomError("bounds", "must be [least, greatest], two numbers in that order")


Bounds = Annotated[tuple[PositiveFloat, PositiveFloat], WrapValidator(_ordered_bounds)]


@settings
class Shift(Augmentation):
    """Shift each image by up to ``padding`` pixels, horizontally and vertically.

    The image is padded on all sides and then cropped to its old size at a random position. ``fill=zero`` pads with
    black, ``fill=reflect`` with the image reflected about its outermost pixels (repeatedly if the image is small).
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    padding: PositiveInt = 4
    fill: Literal["zero", "reflect"] = "zero"

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        count, (height, width) = len(images), images.shape[2:]
        padded = F.pad(images, [self.padding] * 4) if self.fill == "zero" else reflected(images, self.padding)
        # Shape (N, C, 2 padding + 1, 2 padding + 1, H, W): a view of all windows, from which each image takes one.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = torch.randint(2 * self.padding + 1, (2, count), generator=generator, device=images.device)
        return windows[torch.arange(count, device=images.device), :, top, left], targets


@settings
class Flip(Augmentation):
    """Mirror images horizontally with the given probability.

    With ``alternating``, chance decides only in the first epoch; then each image is mirrored in every second epoch. So
    any two consecutive epochs show both versions of every image (Jordan, 2024). ``alternating`` needs
    ``probability=0.5``.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    probability: Fraction = 0.5
    alternating: bool = False

    def __post_init__(self) -> None:
        if self.alternating and self.probability != 0.5:
            raise ConfigError("alternating", True, "needs probability=0.5: each image is mirrored every other time")

    def at(self, context: BatchContext) -> Augmentation:
        """With ``alternating``, return an augmentation that mirrors the images whose turn it is in this epoch."""
        if not self.alternating:
            return self
        # The coin of an image is the same in all epochs. In every second epoch, ``^`` (exclusive or) reverses it.
        coins = coin_flips(stream_seed("flip", context.seed), context.indices)
        return _Mirror(coins ^ (context.epoch % 2 == 1))

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        mirror = _Mirror(uniform(images, generator).flatten() < self.probability)
        return mirror(images, targets, classes=classes, generator=generator)


class _Mirror(Augmentation):
    """Mirror the images that ``chosen``, a bool tensor (N,), selects."""

    def __init__(self, chosen: Tensor) -> None:
        self._chosen = chosen.view(-1, 1, 1, 1)

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        return torch.where(self._chosen, images.flip(3), images), targets


@settings
class Affine(Augmentation):
    """Rotate, scale and shear each image about its centre, with bilinear interpolation and black outside the image.

    The angle is uniform in ±``degrees``, the horizontal shear angle in ±``shear_degrees``, and the factor of the scale
    between the two bounds of ``scale``; factors above 1 enlarge.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    scale: Bounds = (0.9, 1.1)
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 0.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        angle, shear, scale = (
            uniform(images, generator, low, high).flatten()
            for low, high in (
                (-math.radians(self.degrees), math.radians(self.degrees)),
                (-math.radians(self.shear_degrees), math.radians(self.shear_degrees)),
                self.scale,
            )
        )
        # The matrix maps output to input positions: the inverse of scale · rotation · shear. It acts on positions in
        # pixels, which are square, so that images that are not square keep their proportions. Both cos and sin are
        # divided by the scale.
        cos, sin, tan = angle.cos() / scale, angle.sin() / scale, shear.tan()
        inverse = torch.stack([cos + tan * sin, sin - tan * cos, -sin, cos], dim=1).view(-1, 2, 2)
        points = (inverse @ pixel_centres(images).flatten(1)).view(-1, 2, *images.shape[2:])
        return sample_at(images, points), targets


@settings
class Elastic(Augmentation):
    """Distort each image smoothly (Simard, Steinkraus and Platt, 2003): each pixel moves, and neighbours move together.

    Displacements are uniform noise in [-1, 1], smoothed by a Gaussian of standard deviation ``sigma_pixels`` and
    multiplied by ``alpha_pixels``. Away from the border, the root mean square along each axis is about 0.16
    ``alpha_pixels`` / ``sigma_pixels``: 1.4 pixels with the defaults, which the paper uses for MNIST. Interpolation is
    bilinear, with black outside the image.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    alpha_pixels: NonNegativeFloat = 34.0
    sigma_pixels: PositiveFloat = 4.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        noise = images.new_empty(len(images), 2, *images.shape[2:]).uniform_(-1, 1, generator=generator)
        displacement = self.alpha_pixels * smoothed(noise, images.new_full((1,), self.sigma_pixels))
        return sample_at(images, pixel_centres(images) + displacement), targets


@settings
class Pen(Augmentation):
    """Change the width of strokes: the light parts of each image grow or shrink by up to one pixel on each side.

    The change in pixels is uniform from -``thinner_pixels`` to ``thicker_pixels``. The module ``strokes`` describes the
    method.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    thicker_pixels: Fraction = 1.0
    thinner_pixels: Fraction = 0.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        change = uniform(images, generator, -self.thinner_pixels, self.thicker_pixels)
        radius = change.abs()
        return torch.where(change > 0, dilate(images, radius), erode(images, radius)), targets


@settings
class Blur(Augmentation):
    """Blur each image, with the given probability, by a Gaussian.

    Its standard deviation in pixels is uniform between the two bounds of ``sigma_pixels``.
    """

    stage: ClassVar[Stage] = Stage.VALUE
    sigma_pixels: Bounds = (0.1, 1.5)
    probability: Fraction = 0.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        is_blurred = uniform(images, generator) < self.probability
        sigma_pixels = uniform(images, generator, *self.sigma_pixels).flatten()
        return torch.where(is_blurred, smoothed(images, sigma_pixels).clamp(0, 1), images), targets


@settings
class Noise(Augmentation):
    """Add Gaussian noise of standard deviation ``std``, in units of the pixel range [0, 1], and clamp the result."""

    stage: ClassVar[Stage] = Stage.VALUE
    std: NonNegativeFloat = 0.1

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        noise = torch.empty_like(images).normal_(0, self.std, generator=generator)
        return noise.add_(images).clamp_(0, 1), targets


@settings
class Cutout(Augmentation):
    """Cover a square of ``size_pixels`` a side (DeVries and Taylor, 2017) with the grey value ``fill`` in [0, 1].

    The centre of the square is a random pixel, so part of the square may lie outside the image. The paper fills with
    the mean of the data set, which is about 0.47 for CIFAR-10; on MNIST, 0 is the background.
    """

    stage: ClassVar[Stage] = Stage.ERASE
    size_pixels: PositiveInt = 8
    fill: Fraction = 0.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        inside = []
        for length in images.shape[2:]:
            centre = torch.randint(length, (len(images), 1), generator=generator, device=images.device)
            offset = torch.arange(length, device=images.device) - (centre - self.size_pixels // 2)
            inside.append((offset >= 0) & (offset < self.size_pixels))
        rows, columns = inside
        return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], self.fill), targets


@settings
class MixUp(Augmentation):
    """Mix each image and its target with another image of the mini-batch and that image's target (Zhang et al., 2018).

    The weight of the image itself is drawn from Beta(``alpha``, ``alpha``): mostly near 0 or 1 for ``alpha`` below 1,
    uniform for 1. The returned targets are class probabilities: float (N, K) in the dtype of the images, and each row
    sums to 1.
    """

    stage: ClassVar[Stage] = Stage.MIX
    alpha: PositiveFloat = 0.2

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        if targets.ndim == 1:
            targets = F.one_hot(targets, classes)
        targets = targets.to(images.dtype)
        partner = torch.randperm(len(images), generator=generator, device=images.device)
        weight = self._draw_weight(images, generator)
        # The result of lerp stays between its two ends; a sum of two products may leave that range by rounding.
        mixed = torch.lerp(images[partner], images, weight)
        return mixed, torch.lerp(targets[partner], targets, weight.flatten(1))

    def _draw_weight(self, images: Tensor, generator: Generator) -> Tensor:
        """Draw the weight of each image itself, (N, 1, 1, 1), from Beta(``alpha``, ``alpha``)."""
        # PyTorch's own beta distribution takes no generator. This closed form (Devroye, "Random variate generation in
        # one line of code", 1996) is exact for a symmetric beta distribution and needs two uniform numbers. Large
        # powers may overflow to infinity, which gives the right limits, 0 and 1.
        power = torch.expm1(-uniform(images, generator).log() / self.alpha)
        cos = (2 * math.pi * uniform(images, generator)).cos()
        return 0.5 + 0.5 * cos.sign() / (1 + 1 / (power * cos**2)).sqrt()
