"""One's own pictures, made to look like the images of a data set, so that a network trained on these can read them.

A picture may have any size, mode and polarity. C, H, W are those of the data set.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from digitlab.core.errors import DataError

# A figure is looked for in a picture of at most this many pixels a side: noise and the grain of paper average out.
_WORKING_PIXELS = 128
# Closer to the background than this share of the strongest contrast is background; Fashion-MNIST was trimmed by 5 %.
_FAINTEST = 0.05
# What stands out less than this, in units of the pixels' range, is no figure.
_LEAST_CONTRAST = 0.04


def read_own_image(path: Path, *, image_shape: tuple[int, int, int], margin_pixels: int | None) -> Tensor:
    """The picture in a file of any format that Pillow reads, as ``as_data_set_image`` makes it: uint8 (C, H, W).

    Raises ``DataError``, naming the file, where it is missing, no picture, damaged, blank, or so large that it may be
    meant as an attack.
    """
    try:
        return as_data_set_image(_read(path), image_shape=image_shape, margin_pixels=margin_pixels)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # From memory: of an open file as much would be reserved as a damaged header says that there is to read.
            with Image.open(io.BytesIO(path.read_bytes())) as picture:
                return ImageOps.exif_transpose(picture)  # upright, as a camera noted that it was held
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"too large, more than {Image.MAX_IMAGE_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise DataError("no picture in a known format") from error
    except Exception as error:  # a damaged file may raise anything, by format
        raise DataError(f"can't be read: {error}") from error


def as_data_set_image(picture: Image.Image, *, image_shape: tuple[int, int, int], margin_pixels: int | None) -> Tensor:
    """The picture as uint8 (C, H, W), as the data set would hold it.

    ``margin_pixels`` is that of ``digitlab.data.Source``. Where it is None the middle of the picture, cut to the aspect
    of the data set, is scaled. Else the figure is found by how it differs from the border, made light on black, cut
    out, scaled with its aspect kept until it fills the frame within the margin, and placed: without a margin in the
    middle, with one so that its centre of mass is in the middle (for MNIST so LeCun et al., 1998).

    Raises ``DataError`` where the picture is blank, or the data set neither grey nor in colour.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(f"pictures have 1 or 3 channels, and the data set has {channels}")
    if margin_pixels is None or channels == 3:
        fitted = ImageOps.fit(_opaque(picture).convert("L" if channels == 1 else "RGB"), (width, height))
        return torch.from_numpy(np.array(fitted)).view(height, width, channels).permute(2, 0, 1).contiguous()
    box = (height - 2 * margin_pixels, width - 2 * margin_pixels)
    figure = _scaled(_figure(_opaque(picture).convert("L")), box)
    frame = torch.zeros(1, height, width)
    top, left = _place(figure, (height, width), by_mass=margin_pixels > 0)
    frame[0, top : top + figure.shape[0], left : left + figure.shape[1]] = figure
    return (frame * 255).round().byte()


def _opaque(picture: Image.Image) -> Image.Image:
    """8 bits a channel and no transparency: what shows through is white behind a dark picture, else black."""
    if picture.mode.startswith(("I", "F")):
        # Pillow clips what is more than 8 bits deep instead of scaling it.
        values = np.asarray(picture, dtype=np.float64)
        ranges = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
        deepest = next((most for most in ranges if values.max() <= most), values.max())
        return Image.fromarray((values.clip(0) * (255 / deepest)).round().astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    rgba = picture.convert("RGBA")
    grey, alpha = (np.asarray(part, dtype=np.float64) for part in (rgba.convert("L"), rgba.getchannel("A")))
    light = (grey * alpha).sum() > 127.5 * alpha.sum()
    background = Image.new("RGBA", rgba.size, "black" if light else "white")
    return Image.alpha_composite(background, rgba).convert("RGB")


def _figure(picture: Image.Image) -> Tensor:
    """The figure of a grey picture, cut out: float (h, w) in [0, 1], 0 the background, whichever was lighter."""
    picture.thumbnail((_WORKING_PIXELS, _WORKING_PIXELS), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    contrast, noise = _contrast(pixels)
    if -contrast.min() > contrast.max():
        contrast = -contrast
    if contrast.max() - noise < _LEAST_CONTRAST:
        raise DataError("blank: nothing in it stands out from its border")
    figure = (contrast - noise).clamp(min=0)
    figure /= figure.max()
    rows, columns = ((figure > _FAINTEST).any(dim).nonzero().flatten() for dim in (1, 0))
    return figure[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _contrast(pixels: Tensor) -> tuple[Tensor, float]:
    """What pixels (h, w) differ by from the background, and by how much the background itself varies.

    The background is a plane through the border, as light mostly falls from one side. What is usual there is told by
    medians, since a figure may touch the border in places.
    """
    height, width = pixels.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([torch.ones_like(rows), rows, columns], dim=-1)
    border = torch.ones_like(pixels, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    values = pixels[border]
    deviation = (values - values.median()).abs()
    usual = deviation <= 3 * deviation.median()
    plane = torch.linalg.lstsq(terms[border][usual], values[usual, None]).solution
    contrast = pixels - (terms @ plane).squeeze(-1)
    # Four standard deviations of normal noise, which one pixel in 30,000 exceeds.
    return contrast, float(6 * contrast[border].abs().median())


def _scaled(figure: Tensor, box: tuple[int, int]) -> Tensor:
    """The figure (h, w) made as large as ``box`` allows, its aspect kept; the strongest pixel stays 1."""
    factor = min(side / length for side, length in zip(box, figure.shape, strict=True))
    size = [max(1, round(length * factor)) for length in figure.shape]
    scaled = F.interpolate(figure[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return scaled / scaled.max()  # thin strokes would pale


def _place(figure: Tensor, frame: tuple[int, int], *, by_mass: bool) -> tuple[int, int]:
    """Row and column of the figure's first pixel in the frame (H, W)."""
    places = []
    for dim, side in enumerate(frame):
        length = figure.shape[dim]
        place = (side - length + 1) // 2
        if by_mass:
            weights = figure.sum(1 - dim)
            centre = float((weights * torch.arange(length)).sum() / weights.sum())
            # In MNIST it is the pixel side / 2 that the centre of mass comes nearest to.
            place = min(max(round(side / 2 - centre), 0), side - length)
        places.append(place)
    return places[0], places[1]
