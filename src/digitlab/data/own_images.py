"""Converts a user's picture to the form of a data set's images: for prediction, and for data sets of picture files.

``digitlab predict`` and ``picture_files`` use it. A picture may have any size, any of Pillow's pixel formats (which it
calls modes), and dark or light background. The figure is the digit or object that the picture shows, without the
background. C, H, W are those of the data set; h and w are the height and width of a picture or figure.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from digitlab.core.errors import DataError
from digitlab.core.files import path_text

# Before the search for the figure, a picture is reduced to at most this many pixels a side. That averages out noise and
# the grain of paper.
_WORKING_PIXELS = 128
# The contrast of a pixel is its difference from the background, for pixels in [0, 1]. Pixels below this share of the
# strongest contrast count as background. Fashion-MNIST was cropped with 5 %, too.
_MIN_CONTRAST_SHARE = 0.05
# If the strongest contrast is not above the noise of the background by this value, the picture is blank.
_MIN_CONTRAST = 0.04
# A file with more bytes than this (512 MiB) is not read, because the whole file is read into memory.
_MAX_FILE_BYTES = 1 << 29
_BLOCK_BYTES = 1 << 18


@cache
def picture_extensions() -> frozenset[str]:
    """Return the file extensions of the formats that Pillow can read here, in lower case and with their dot."""
    extensions, formats = Image.registered_extensions(), picture_formats()
    return frozenset(extension for extension, picture_format in extensions.items() if picture_format in formats)


@cache
def picture_formats() -> tuple[str, ...]:
    """Return the names that Pillow gives to the formats that it can read without other programs."""
    Image.init()
    # Pillow only recognises the formats excluded here, or runs another program to read them.
    return tuple(sorted(set(Image.OPEN) - {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}))


@contextmanager
def picture_warnings() -> Iterator[None]:
    """Let ``decode`` refuse pictures so large that they may be an attack, and hide Pillow's other warnings.

    Warning filters belong to the whole process, so one ``with`` block must enclose all threads that decode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_own_image(path: Path, *, image_shape: tuple[int, int, int], margin_pixels: int | None) -> Tensor:
    """Read a picture file of any format that Pillow reads and convert it to uint8 (C, H, W).

    ``as_data_set_image`` explains the arguments and the conversion.

    Raises:
        DataError: the file is missing, is not a picture, is damaged or blank, or is so large that it may be an attack;
            the message names the file.
    """
    try:
        with picture_warnings():
            picture = decode(read_bytes(path))
            return as_data_set_image(picture, image_shape=image_shape, margin_pixels=margin_pixels)
    except DataError as error:
        raise DataError(f"{path_text(path)}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a picture file; raise ``DataError``, without the path, if that is impossible."""
    try:
        if path.is_dir():
            raise DataError("is a folder: give the pictures in it")
        too_large = DataError(f"too large, more than {_MAX_FILE_BYTES:,} bytes")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise too_large
        content = bytearray()
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                content += block
                # Devices and pipes have the size 0, whatever their content.
                if len(content) > _MAX_FILE_BYTES:
                    raise too_large
        return bytes(content)
    except (FileNotFoundError, ValueError) as error:  # Python refuses a path that contains the character 0
        raise DataError("no such file") from error
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror or error}") from error


def decode(content: bytes) -> Image.Image:
    """Decode the bytes of a picture file and rotate the picture upright; call it within ``picture_warnings``.

    Raises ``DataError``, without a path, if the picture is damaged or too large. Decoding from memory is safer than
    from a file, where Pillow would allocate as much as a damaged header claims.
    """
    try:
        with Image.open(io.BytesIO(content), formats=picture_formats()) as picture:
            return ImageOps.exif_transpose(picture)  # apply the orientation that the camera recorded
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"too large, more than {Image.MAX_IMAGE_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise DataError("no picture in a known format" if content else "is empty") from error
    except Exception as error:  # damaged files raise different exceptions in each format
        raise DataError(f"can't be read: {' '.join(str(error).split()) or type(error).__name__}") from error


def as_data_set_image(picture: Image.Image, *, image_shape: tuple[int, int, int], margin_pixels: int | None) -> Tensor:
    """Convert a picture to uint8 (C, H, W), as if it were an image of the data set, whose ``image_shape`` is (C, H, W).

    ``margin_pixels`` is the width of the black margin around the figure in images of the data set, or None if they are
    whole pictures (``digitlab.data.Source``). If it is None or the images have colours, the picture is cropped around
    its centre to the aspect ratio of the data set and scaled. Otherwise the figure is found by its contrast to the
    border of the picture, made light on black, cropped, and scaled without distortion to the largest size that leaves
    the margin free. If ``margin_pixels`` is 0, the bounding box of the figure is then centred in the image. Otherwise
    its centre of mass is, as in MNIST (LeCun et al., 1998).

    Raises:
        DataError: the picture is blank, empty or of a rare pixel format, or the data set has neither 1 nor 3 channels.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(f"pictures have 1 or 3 channels, and the data set has {channels}")
    if 0 in picture.size:
        raise DataError("has no pixels")
    converted = _converted(picture, "L" if channels == 1 else "RGB")
    if margin_pixels is None or channels == 3:
        fitted = ImageOps.fit(converted, (width, height))
        return torch.from_numpy(np.array(fitted)).view(height, width, channels).permute(2, 0, 1).contiguous()
    size_inside_margin = (height - 2 * margin_pixels, width - 2 * margin_pixels)
    figure = _scaled(_figure(converted), size_inside_margin)
    image = torch.zeros(1, height, width)
    top, left = _position(figure, (height, width), by_mass=margin_pixels > 0)
    image[0, top : top + figure.shape[0], left : left + figure.shape[1]] = figure
    return (image * 255).round().byte()


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    """Return the picture without transparency in Pillow's ``mode``; raise ``DataError`` if Pillow can't convert it."""
    try:
        opaque = _without_transparency(picture)
        # Pillow can convert LAB only to colours.
        return (opaque.convert("RGB") if opaque.mode == "LAB" else opaque).convert(mode)
    except ValueError as error:
        raise DataError(f"has the pixel format {picture.mode}, which can't be converted") from error


def _without_transparency(picture: Image.Image) -> Image.Image:
    """Convert a picture to 8 bits a channel without transparency.

    Transparent pixels become white if the picture is dark, and black if it is light, so that the figure differs from
    them.
    """
    if picture.mode.startswith(("I", "F")):
        # Pixels are whole numbers of more than 8 bits (I) or floats (F). Pillow would clip them to 0 … 255, so they are
        # scaled here. The mode does not say which value is white: pictures of 16 bits have the mode I;16, or in some
        # formats I, and pictures of 8 bits can have the mode I, too. So take the smallest usual value of white that no
        # pixel exceeds, or the largest pixel if there is none.
        values = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(values).all():
            raise DataError("has pixels that are no numbers")
        white_values = {"F": (1, 255, 65535), "I": (255, 65535)}.get(picture.mode, (65535,))
        white = next((value for value in white_values if values.max() <= value), values.max())
        return Image.fromarray((values.clip(0) * (255 / white)).round().astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    rgba = picture.convert("RGBA")
    grey, alpha = (np.asarray(band, dtype=np.float64) for band in (rgba.convert("L"), rgba.getchannel("A")))
    # The mean grey of the pixels, weighted by their opacity, is above the middle of 0 … 255.
    is_light = (grey * alpha).sum() > 127.5 * alpha.sum()
    background = Image.new("RGBA", rgba.size, "black" if is_light else "white")
    return Image.alpha_composite(background, rgba).convert("RGB")


def _figure(picture: Image.Image) -> Tensor:
    """Return the cropped figure of a grey picture: float (h, w) in [0, 1], where 0 is the background."""
    picture.thumbnail((_WORKING_PIXELS, _WORKING_PIXELS), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    contrast, noise = _contrast(pixels)
    if -contrast.min() > contrast.max():  # a dark figure on a light background
        contrast = -contrast
    if contrast.max() - noise < _MIN_CONTRAST:
        raise DataError("blank: nothing in it stands out from its border")
    figure = (contrast - noise).clamp(min=0)
    figure /= figure.max()
    # Crop to the rows and columns in which some pixel belongs to the figure.
    rows, columns = ((figure > _MIN_CONTRAST_SHARE).any(dim).nonzero().flatten() for dim in (1, 0))
    return figure[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _contrast(pixels: Tensor) -> tuple[Tensor, float]:
    """Return the contrast of each of the ``pixels``, float (h, w), and how much the background itself varies.

    The background is a plane (a + b · row + c · column) fitted to the outermost pixels, because light often comes from
    one side. The fit leaves out those that are far from their median, because parts of the figure may touch the
    border.
    """
    height, width = pixels.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([torch.ones_like(rows), rows, columns], dim=-1)
    border = torch.ones_like(pixels, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    border_pixels = pixels[border]
    deviation = (border_pixels - border_pixels.median()).abs()
    is_background = deviation <= 3 * deviation.median()
    plane = torch.linalg.lstsq(terms[border][is_background], border_pixels[is_background, None]).solution
    contrast = pixels - (terms @ plane).squeeze(-1)
    # Six median absolute deviations of normal noise are about four standard deviations; one pixel in 30,000 exceeds
    # that.
    return contrast, float(6 * contrast[border].abs().median())


def _scaled(figure: Tensor, max_size: tuple[int, int]) -> Tensor:
    """Scale a figure (h, w) without distortion to the largest size within ``max_size``; its maximum stays 1."""
    factor = min(side / length for side, length in zip(max_size, figure.shape, strict=True))
    size = [max(1, round(length * factor)) for length in figure.shape]
    scaled = F.interpolate(figure[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return scaled / scaled.max()  # without this, thin strokes would become grey


def _position(figure: Tensor, image_size: tuple[int, int], *, by_mass: bool) -> tuple[int, int]:
    """Return the row and column, in an image of ``image_size`` (H, W), of the first pixel of a centred figure (h, w).

    With ``by_mass``, its centre of mass is centred as far as the image has room; otherwise its bounding box.
    """
    positions = []
    for dim, side in enumerate(image_size):
        length = figure.shape[dim]
        position = (side - length + 1) // 2
        if by_mass:
            weights = figure.sum(1 - dim)
            # Rounded to 3 digits, so that the rounding errors of the sums do not move a symmetrical figure.
            centre = round(float((weights * torch.arange(length)).sum() / weights.sum()), 3)
            # In MNIST, the pixel with index side / 2 is the one nearest to the centre of mass.
            position = min(max(round(side / 2 - centre), 0), side - length)
        positions.append(position)
    return positions[0], positions[1]
