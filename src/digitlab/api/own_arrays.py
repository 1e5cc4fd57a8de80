"""Converts a Python user's arrays of images to uint8 (N, C, H, W), or says in one line why that is impossible."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from digitlab.core.errors import ConfigError

# Grey, grey with alpha, RGB and RGBA images have 1 to 4 channels.
_MAX_CHANNELS = 4
_SHAPES = "(N, H, W), (N, C, H, W) or (N, H, W, C)"


def as_images(images: Any, key: str) -> Tensor:
    """Return ``images`` as uint8 (N, C, H, W) on the CPU.

    ``images`` are an array, a tensor, or a list of arrays of one shape: uint8, or floats in [0, 1], which are rounded
    to 256 levels; (N, H, W), (N, C, H, W) or (N, H, W, C). The last axis holds channels if its length is at most 4
    and that of the second axis is larger. Raises ``ConfigError`` for anything else; ``key`` is the name in its message.
    """
    pixels = _as_tensor(images, key)
    if 0 in pixels.shape[1:]:
        raise ConfigError(key, f"images {_shape(pixels)}", "must have at least one pixel")
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.ndim == 4 and pixels.shape[3] <= _MAX_CHANNELS < pixels.shape[1]:
        pixels = pixels.permute(0, 3, 1, 2)
    elif pixels.ndim != 4:
        side = round(pixels.shape[-1] ** 0.5) if pixels.ndim == 2 else 0
        array = "images.to_numpy()" if hasattr(images, "to_numpy") else "images"  # a data frame of pandas or polars
        hint = f": write {array}.reshape(-1, {side}, {side})" if side and side * side == pixels.shape[-1] else ""
        raise ConfigError(key, f"images {_shape(pixels)}", f"must have shape {_SHAPES}{hint}")
    return _as_bytes(pixels, key).contiguous()


def _as_tensor(images: Any, key: str) -> Tensor:
    if isinstance(images, Tensor):
        return images.detach().cpu()
    try:
        if isinstance(images, list | tuple):
            if not images:
                raise ConfigError(key, "0 images", "must have images")
            arrays = [each.numpy(force=True) if isinstance(each, Tensor) else np.asarray(each) for each in images]
            shapes = list(dict.fromkeys(array.shape for array in arrays))
            if len(shapes) > 1:
                two_shapes = f"images {shapes[0]} and {shapes[1]}"
                raise ConfigError(key, two_shapes, "must all have the same shape: resize them first")
            images = np.stack(arrays)
        return torch.from_numpy(np.array(images, order="C"))
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(key, f"<{type(images).__name__}>", f"holds no images: {_why_no_pixels(images)}") from error


def _why_no_pixels(images: Any) -> str:
    """Return what to pass in place of ``images``, whose items are no numbers."""
    first = next(iter(images), None) if isinstance(images, list | tuple | np.ndarray) else images
    if isinstance(first, str | os.PathLike):
        return "for files of pictures write data=folder data.path=FOLDER, or pass their pixels as an array"
    if isinstance(first, Iterator):
        return "an iterator can be read only once: pass list(images)"
    if isinstance(first, Mapping):
        return "pass the pixels alone, as an array"
    return f"pass an array of numbers with shape {_SHAPES}"


def _as_bytes(pixels: Tensor, key: str) -> Tensor:
    """Return ``pixels`` as uint8: floats in [0, 1] become 0 … 255, and True becomes 255."""
    if pixels.dtype == torch.uint8:
        return pixels
    if pixels.dtype == torch.bool:
        return pixels.to(torch.uint8) * 255
    dtype = str(pixels.dtype).removeprefix("torch.")
    if pixels.is_complex():
        raise ConfigError(key, f"images of {dtype}", "must be uint8 or floats in [0, 1]")
    if not pixels.is_floating_point():
        # ``min`` and ``max`` do not take all kinds of whole numbers.
        low, high = (int(each) for each in pixels.double().aminmax()) if pixels.numel() else (0, 0)
        hint = 'images.astype("uint8")' if low >= 0 and high <= 255 else f'(images / {high}).astype("float32")'
        hint = f"write {hint}" if low >= 0 else "shift and scale them"
        raise ConfigError(key, f"images of {dtype} from {low} to {high}", f"must be uint8 or floats in [0, 1]: {hint}")
    if not pixels.numel():
        return pixels.to(torch.uint8)
    if not bool(pixels.isfinite().all()):
        not_finite = "nan" if bool(pixels.isnan().any()) else "inf"
        raise ConfigError(key, f"images with {not_finite}", "every pixel must be a number in [0, 1]")
    lowest, highest = float(pixels.min()), float(pixels.max())
    if lowest < 0 or highest > 1:
        # A highest value from 100 to 255 shows that the images have 256 levels.
        divisor = 255 if 100 < highest <= 255 else f"{highest:g}"
        hint = f"divide them by {divisor}" if lowest >= 0 else "shift and scale them"
        raise ConfigError(key, f"images from {lowest:g} to {highest:g}", f"floats must lie in [0, 1]: {hint}")
    return (pixels * 255).round().to(torch.uint8)


def _shape(pixels: Tensor) -> str:
    return "×".join(map(str, pixels.shape)) or "without axes"
