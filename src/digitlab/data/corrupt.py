"""Corruptions of test images in five degrees of severity, to measure how robust a trained network is.

``digitlab evaluate`` and ``training.robustness`` use them; Hendrycks and Dietterich (2019) did the same to photographs.
Each corruption is an augmentation of fixed strength: it takes and returns images, float (N, C, H, W) in [0, 1], and
makes one draw for each image from the given generator. Lengths are in pixels and suit images of 28 x 28 and 32 x 32
pixels. N images, C channels, H rows, W columns.
"""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from digitlab.config.schema import Fraction, NonNegativeFloat, settings
from digitlab.config.suggestions import not_one_of
from digitlab.core.errors import ConfigError
from digitlab.data.augment import Affine, Augmentation, Batch, Blur, Compose, Cutout, Noise, Shift, Stage
from digitlab.data.strokes import dilate, erode

SEVERITIES = (1, 2, 3, 4, 5)


@settings
class Stretch(Augmentation):
    """Scale either the width or the height of each image, about its centre, by ``factor`` or by 1 / ``factor``.

    All four cases are equally likely. Interpolation is bilinear, with black outside the image.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    factor: Annotated[float, Field(ge=1)] = 1.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        horizontal, enlarge = torch.randint(2, (2, len(images)), generator=generator, device=images.device).bool()
        # The grid maps output to input positions: to double a width, look up at half the distance from the centre.
        inverse = torch.where(enlarge, 1 / self.factor, self.factor).to(images.dtype)
        theta = images.new_zeros(len(images), 2, 3)
        theta[:, 0, 0] = torch.where(horizontal, inverse, 1)
        theta[:, 1, 1] = torch.where(horizontal, 1, inverse)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        # The four weights of the interpolation may sum to slightly more than one.
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).clamp(0, 1), targets


@settings
class StrokeWidth(Augmentation):
    """Widen the strokes of about half of the images by ``thicker_pixels``, narrow the others by ``thinner_pixels``.

    Strokes are the light parts; the lengths apply to each side of a stroke. The module ``strokes`` describes the
    method.
    """

    stage: ClassVar[Stage] = Stage.SHAPE
    thicker_pixels: NonNegativeFloat = 1.0
    thinner_pixels: NonNegativeFloat = 0.5

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        thicker = torch.randint(2, (len(images), 1, 1, 1), generator=generator, device=images.device).bool()
        widened, narrowed = dilate(images, self.thicker_pixels), erode(images, self.thinner_pixels)
        return torch.where(thicker, widened, narrowed), targets


@settings
class Invert(Augmentation):
    """Mix each image with its negative: the result is (1 - ``share``) · image + ``share`` · negative.

    With ``share`` = 1/2, all images would become the same grey.
    """

    stage: ClassVar[Stage] = Stage.VALUE
    share: Fraction = 1.0

    def __call__(self, images: Tensor, targets: Tensor, *, classes: int, generator: Generator) -> Batch:
        return torch.lerp(images, 1 - images, self.share), targets


Kind = Literal["noise", "blur", "stretch", "pen", "rotate", "shift", "occlude", "invert"]

# The five strengths of each corruption, for the severities 1 to 5. At 5, people find the images hard to recognise, too.
# Strokes are narrowed by less than they are widened, because thin strokes would disappear. Inverting by about a half
# would make all images the same grey, so the steps are small up to 0.4, and the last one is the negative.
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
    """Return the corruption ``kind`` for each severity, or only for the given one.

    Severity 0 is the identity.

    Raises:
        ConfigError: there is no corruption of this name, or ``severity`` is not in 1 … 5.
    """
    if kind not in CORRUPTIONS:
        raise not_one_of("--corrupt", kind, CORRUPTIONS)
    by_severity = dict(zip(SEVERITIES, CORRUPTIONS[kind], strict=True))
    if severity is None:
        return {0: Compose([])} | by_severity
    if severity not in by_severity:
        raise ConfigError("--severity", severity, f"must be a whole number from {SEVERITIES[0]} to {SEVERITIES[-1]}")
    return {severity: by_severity[severity]}
