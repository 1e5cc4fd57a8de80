"""Turns what users pass to ``Run.predict`` into pixels: paths, PIL images, arrays and tensors, alone or in a list."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from digitlab.core.errors import ConfigError
from digitlab.data.deskew import deskew
from digitlab.data.own_images import as_data_set_image, read_own_image
from digitlab.training.settings import DataFacts


def as_pixels(images: Any, *, facts: DataFacts, deskewed: bool) -> Tensor:
    """Return ``images`` as pixels (N, C, H, W), uint8 or float in [0, 1], with the shape of the data set.

    ``facts`` describe the data set of the run, and ``deskewed`` says whether it was deskewed; then pictures (paths and
    PIL images) are deskewed, too. Raises ``DataError`` for a picture that cannot be read, and ``ConfigError`` for a
    wrong shape, type or range of values.
    """
    if isinstance(images, list | tuple) and any(isinstance(each, str | Path | Image.Image) for each in images):
        parts = [as_pixels(each, facts=facts, deskewed=deskewed) for each in images]
        if any(part.is_floating_point() for part in parts):
            # ``torch.cat`` would turn bytes into floats from 0 to 255.
            parts = [part / 255 if part.dtype == torch.uint8 else part for part in parts]
        return torch.cat(parts)
    channels, height, width = facts.image_shape
    if isinstance(images, str | Path | Image.Image):
        shape = (channels, height, width)
        if isinstance(images, Image.Image):
            image = as_data_set_image(images, image_shape=shape, margin_pixels=facts.margin_pixels)
        else:
            image = read_own_image(Path(images), image_shape=shape, margin_pixels=facts.margin_pixels)
        return deskew(image[None]) if deskewed else image[None]
    pixels = _tensor(images)
    # Grey images may lack the axis of the channel. But (1, H, W) is one image that has it.
    if channels == 1 and pixels.shape[-2:] == (height, width) and pixels.shape[-3:] != (1, height, width):
        pixels = pixels.unsqueeze(-3)
    if pixels.shape[-3:] != (channels, height, width) or pixels.ndim not in (3, 4):
        expected = f"must have shape {(channels, height, width)} or (N, {channels}, {height}, {width})"
        raise ConfigError("images", f"shape {tuple(pixels.shape)}", expected)
    _require_range(pixels)
    return pixels.reshape(-1, channels, height, width)


def _tensor(images: Any) -> Tensor:
    if isinstance(images, Tensor):
        return images.detach().cpu()
    if isinstance(images, list | tuple):
        parts = [_tensor(each) for each in images]
        if not parts:
            raise ConfigError("images", "[]", "must have at least one image")
        shapes = list(dict.fromkeys(tuple(part.shape) for part in parts))
        if len(shapes) > 1:
            raise ConfigError("images", f"{shapes[0]} and {shapes[1]}", "must all have the same shape")
        return torch.stack(parts)
    allowed = "must be a path, a picture of PIL, an array or a tensor, or a list of these"
    refusal = ConfigError("images", f"<{type(images).__name__}>", allowed)
    if np.ndim(images) == 0:
        raise refusal
    try:
        return torch.from_numpy(np.ascontiguousarray(images))
    except (TypeError, ValueError) as error:
        raise refusal from error


def _require_range(pixels: Tensor) -> None:
    if pixels.dtype == torch.uint8:
        return
    if not pixels.is_floating_point():
        dtype = str(pixels.dtype).removeprefix("torch.")
        hint = ': write images.astype("uint8")' if "int" in dtype else ""
        raise ConfigError("images", dtype, f"must be uint8 in 0..255 or floats in [0, 1]{hint}")
    if pixels.numel() and not bool(pixels.isfinite().all()):
        raise ConfigError("images", "nan" if bool(pixels.isnan().any()) else "inf", "every pixel must be a number")
    if pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1):
        value_range = f"from {pixels.min():.3g} to {pixels.max():.3g}"
        raise ConfigError("images", value_range, "floats must lie in [0, 1]: divide 0..255 by 255")
