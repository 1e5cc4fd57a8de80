"""Corruptions: test images made harder to read, in five steps of severity, to see how much a trained network bears.

Each is an augmentation of fixed strength, so it works on the batch, on its device, with one draw an image from the
generator that is handed in (Hendrycks and Dietterich, 2019, did the same to photographs). N images, C, H, W. Pixels
lie in [0, 1], 0 is black; lengths are in pixels and meant for images of 28 x 28 and 32 x 32.
"""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from digitlab.config.schema import Fraction, NonNegativeFloat, nearest, settings
from digitlab.core.errors import ConfigError
from digitlab.data.augment import Affine, Augmentation, Blur, Compose, Cutout, Noise, Shift, Stage

SEVERITIES = (1, 2, 3, 4, 5)


@settings
class Stretch(Augmentation):
    """Scale one axis by ``factor`` or its inverse, one chance in four for each of the four ways, about the centre.

    Interpolated bilinearly, with black around the image.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    factor: Annotated[float, Field(ge=1)] = 1.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        draws = torch.randint(2, (2, len(images)), generator=generator, device=images.device).bool()
        axis, up = draws
        # From output to input: what is twice as wide is looked up at half the distance from the centre.
        inverse = torch.where(up, 1 / self.factor, self.factor).to(images.dtype)
        theta = images.new_zeros(len(images), 2, 3)
        theta[:, 0, 0] = torch.where(axis, inverse, 1)
        theta[:, 1, 1] = torch.where(axis, 1, inverse)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        # The four weights of a pixel may sum to a little more than one.
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).clamp(0, 1), targets


@settings
class StrokeWidth(Augmentation):
    """A thicker or a thinner pen, one chance in two each: strokes grow or shrink by a number of pixels on each side.

    Light strokes are dilated by ``thicker_pixels`` or eroded by ``thinner_pixels``, with a square. Between two whole
    numbers of pixels the two results are interpolated.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    thicker_pixels: NonNegativeFloat = 1.0
    thinner_pixels: NonNegativeFloat = 0.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        thicker = torch.randint(2, (len(images), 1, 1, 1), generator=generator, device=images.device).bool()
        # Erosion is dilation of the dark.
        thin = -_dilated(-images, self.thinner_pixels)
        return torch.where(thicker, _dilated(images, self.thicker_pixels), thin), targets


def _dilated(images: Tensor, radius_pixels: float) -> Tensor:
    whole = int(radius_pixels)
    inner, outer = (F.max_pool2d(images, 2 * radius + 1, stride=1, padding=radius) for radius in (whole, whole + 1))
    return torch.lerp(inner, outer, radius_pixels - whole)


@settings
class Invert(Augmentation):
    """Mix each image with its negative, of which it takes ``share``; at 1/2 nothing but grey would be left."""

    stage: ClassVar[Stage] = Stage.VALUE
    share: Fraction = 1.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        return torch.lerp(images, 1 - images, self.share), targets


Kind = Literal["noise", "blur", "stretch", "pen", "rotate", "shift", "occlude", "invert"]

CORRUPTIONS: dict[Kind, tuple[Augmentation, ...]] = {
    "noise": tuple(Noise(std=std) for std in (0.1, 0.2, 0.35, 0.5, 0.7)),
    "blur": tuple(Blur(sigma_pixels=(sigma, sigma), probability=1.0) for sigma in (0.75, 1.25, 1.75, 2.5, 3.5)),
    "stretch": tuple(Stretch(factor=factor) for factor in (1.2, 1.4, 1.7, 2.0, 2.5)),
    "pen": tuple(StrokeWidth(thicker_pixels=2.5 * thin, thinner_pixels=thin) for thin in (0.15, 0.3, 0.45, 0.6, 0.75)),
    "rotate": tuple(Affine(degrees=degrees, scale=(1.0, 1.0)) for degrees in (15.0, 30.0, 45.0, 60.0, 90.0)),
    "shift": tuple(Shift(padding=pixels) for pixels in (1, 2, 3, 4, 6)),
    "occlude": tuple(Cutout(size_pixels=side, fill=0.5) for side in (4, 8, 12, 16, 20)),
    "invert": tuple(Invert(share=share) for share in (0.1, 0.2, 0.3, 0.4, 1.0)),
}


def corruptions(kind: str, severity: int | None = None) -> dict[int, Augmentation]:
    """The corruption of this name by severity, from 0, the identity, to 5, hard for people too; or one severity alone.

    Raises ``ConfigError`` for another name, or a severity that is not from 1 to 5.
    """
    if kind not in CORRUPTIONS:
        raise ConfigError("--corrupt", kind, f"must be one of {', '.join(CORRUPTIONS)}{nearest(kind, CORRUPTIONS)}")
    steps = dict(zip(SEVERITIES, CORRUPTIONS[kind], strict=True))
    if severity is None:
        return {0: Compose([])} | steps
    if severity not in steps:
        raise ConfigError("--severity", severity, f"must be a whole number from {SEVERITIES[0]} to {SEVERITIES[-1]}")
    return {severity: steps[severity]}
