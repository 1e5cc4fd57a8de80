"""Checks of the images and labels of a data set; ``ImageData.setup`` makes them before a run trains.

They find the usual mistakes in data sets that a user prepared: labels that start at 1, axes in another order, pixels in
[0, 1] that were stored as whole numbers, blank or repeated images. They refuse a data set that cannot be trained on
and warn about one that only looks wrong. They look at all labels but only at some images, so they take a few
milliseconds.
"""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from digitlab.core.errors import DataError, listed
from digitlab.data.sampling import every_nth
from digitlab.data.source import ImageSet

# The pixels of at most this many images are looked at, evenly spread over the data set.
_SAMPLE_IMAGES = 1000
# Differences between pixels are a mean over many pixels, so fewer images are enough.
_AXIS_SAMPLE_IMAGES = 100
# A published set may hold a few blank images by accident; more are a mistake in its preparation.
_MAX_BLANK_SHARE = 0.01
# ``_axis_warnings`` compares two mean differences between pixels. It warns only if one is below this factor times the
# other, because in noise they are nearly equal, and chance decides which is smaller.
_AXIS_FACTOR = 0.8
# Grey, grey with alpha, RGB and RGBA images have 1 to 4 channels.
_MAX_CHANNELS = 4

_log = logging.getLogger(__name__)


def check_data_set(
    train: ImageSet, test: ImageSet, *, title: str, class_names: Sequence[str], image_shape: tuple[int, int, int]
) -> None:
    """Refuse a data set that cannot be trained on, and log a warning if one looks wrong.

    ``train`` and ``test`` are the whole sets before any split or limit; ``title``, ``class_names`` (K names) and
    ``image_shape`` (C, H, W) come from the source. Each warning is one line of the log.

    Raises:
        DataError: images are not uint8 (N, C, H, W) of ``image_shape``; a label is not in 0 … K - 1; a class occurs in
            the test set but not in the training set; or all training images are equal.
    """
    for name, images in (("training", train), ("test", test)):
        _refuse_wrong_tensors(images, f"{title}: {name} images", image_shape)
        problem = wrong_label(images.labels, len(class_names))
        if problem is not None:
            raise DataError(f"{title}: {name} labels: {problem}")
    counts = [torch.bincount(images.labels, minlength=len(class_names)) for images in (train, test)]
    _refuse_missing_classes(*counts, title=title, class_names=class_names)
    if _all_equal(train.images):
        raise DataError(f"{title}: all training images are equal; check how they were made")
    warnings = [*_label_warnings(*counts, class_names=class_names), *_axis_warnings(train.images)]
    for name, images in (("training", train), ("test", test)):
        warnings += _pixel_warnings(images.images, name)
    for warning in warnings:
        _log.warning("%s: %s", title, warning)


def wrong_label(labels: Tensor, class_count: int) -> str | None:
    """Say what is wrong with integer ``labels`` (N,) that should be in 0 … ``class_count`` - 1; None if nothing is.

    For labels in 1 … ``class_count``, as in EMNIST, the text says to subtract 1.
    """
    if not len(labels):
        return None
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest >= 0 and largest < class_count:
        return None
    wrong = smallest if smallest < 0 else largest
    problem = f"label {wrong}, but there are {class_count} classes, 0 … {class_count - 1}"
    if smallest == 1 and largest == class_count:
        return f"{problem}; the labels start at 1, so subtract 1 from each"
    return f"{problem}; correct the labels, or name every class in class_names"


def _refuse_wrong_tensors(images: ImageSet, name: str, image_shape: tuple[int, int, int]) -> None:
    pixels, labels = images.images, images.labels
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != tuple(image_shape):
        actual = f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}"
        raise DataError(f"{name} are {actual}; they must be uint8 (N, C, H, W) with (C, H, W) = {tuple(image_shape)}")
    if labels.shape != pixels.shape[:1]:
        raise DataError(f"{name}: {len(pixels)} images and labels {tuple(labels.shape)}; each image needs one label")


def _refuse_missing_classes(train: Tensor, test: Tensor, *, title: str, class_names: Sequence[str]) -> None:
    """Raise ``DataError`` if a class of the test set has no training images.

    ``train`` and ``test`` are the numbers of images of each class, int64 (K,).
    """
    missing = [name for name, trained, tested in zip(class_names, train, test, strict=True) if tested and not trained]
    if missing:
        raise DataError(
            f"{title}: the test set has images of class {listed(missing)}, but the training set has none; add training "
            "images of each class, or leave its images out of the test set"
        )


def _label_warnings(train: Tensor, test: Tensor, *, class_names: Sequence[str]) -> Iterator[str]:
    """Yield a warning if classes have no images; the arguments are as in ``_refuse_missing_classes``."""
    empty = [index for index, count in enumerate((train + test).tolist()) if count == 0]
    if empty == [0]:
        yield (
            f"no image has label 0 ({class_names[0]}); if the labels start at 1, subtract 1 from each and remove the "
            "extra name from class_names"
        )
    elif empty:
        names = listed([class_names[index] for index in empty])
        yield f"no image of class {names}; remove what does not occur from class_names, or check the labels"


def _axis_warnings(images: Tensor) -> Iterator[str]:
    """Yield warnings about the order of the axes of ``images``, uint8 (N, C, H, W), by their shape and content.

    Neighbouring pixels of a picture resemble each other. In a file with the axes (N, C, H, W), the right neighbour of a
    pixel is the next value. With (N, H, W, C), it is C values further on. If values at that distance resemble each
    other more, the file was probably written in that order. In the same way, the lower neighbour, W values further on,
    shows whether height and width are exchanged.
    """
    channels, height, width = images.shape[1:]
    if width <= _MAX_CHANNELS < min(channels, height):
        yield (
            f"images have {channels} channels and are {width} pixels wide, so their axes are probably (N, H, W, C); "
            "store them as (N, C, H, W)"
        )
        return
    values = every_nth(images, _AXIS_SAMPLE_IMAGES).flatten(1).short()
    if 1 < channels <= _MAX_CHANNELS < width and _difference(values, channels) < _AXIS_FACTOR * _difference(values, 1):
        yield "the values look like (N, H, W, C) under a header that says (N, C, H, W); store channels before rows"
    elif height != width and _difference(values, height) < _AXIS_FACTOR * _difference(values, width):
        yield (
            f"the values look like images of {width} rows and {height} columns, but the header says {height} rows and "
            f"{width} columns; exchange H and W"
        )


def _difference(values: Tensor, distance: int) -> float:
    """Return the mean absolute difference of the ``values`` of an image that are ``distance`` apart.

    ``values`` is int16 (N, C · H · W): each row has the values of one image in the order of the file.
    """
    return float((values[:, distance:] - values[:, :-distance]).abs().float().mean())


def _pixel_warnings(images: Tensor, name: str) -> Iterator[str]:
    """Yield warnings about a sample of ``images``, uint8 (N, C, H, W); ``name`` says which set they are."""
    if not len(images):
        return
    pixels = every_nth(images, _SAMPLE_IMAGES).flatten(1)
    largest = int(pixels.max())
    if largest == 1:
        yield f"the largest pixel of the {name} images is 1 of 255; if pixels were in [0, 1], store them times 255"
        return
    blank = int((pixels.amin(1) == pixels.amax(1)).sum())
    if blank > _MAX_BLANK_SHARE * len(pixels):
        yield f"{blank} of {len(pixels)} {name} images looked at have one value in all pixels; check how they were made"
    if name != "training" and _all_equal(images):
        yield f"all {name} images are equal; check how they were made"


def _all_equal(images: Tensor) -> bool:
    """Return whether all ``images`` of the sample are equal, if there are at least two."""
    # Compare 20 images at a time: in a usual data set, the first 20 differ, and ``all`` stops there.
    parts = every_nth(images, _SAMPLE_IMAGES).split(20)
    return len(images) > 1 and all(bool((part == images[0]).all()) for part in parts)
