"""Splits the official training set into training and validation images; only ``split_seed`` decides the random order.

``ImageData`` uses it. The split is stratified: each class has the same share in both parts. The random order comes from
the raw bits of NumPy's generator PCG64, which NumPy guarantees not to change. So the split depends neither on the
versions of NumPy and PyTorch nor on their random state.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from digitlab.core.errors import ConfigError
from digitlab.data.seeding import stream_seed

_Ints = npt.NDArray[np.int64]


def split_counts(
    images: int,
    *,
    classes: int,
    val_size: int | float,
    train_size: int | float | None,
    folds: int | None = None,
    fold: int = 0,
) -> tuple[int, int]:
    """Return the numbers of training and validation images out of ``images``; it needs no data, only counts.

    ``val_size`` is a count, or a fraction in [0, 1) of all images. With ``folds``, the validation set is instead part
    ``fold`` (from 0) of that many equal parts (k-fold cross-validation). ``train_size`` is a count, or a fraction in
    (0, 1] of the images that validation leaves; None takes all of them.

    Raises:
        ConfigError: ``val_size`` or ``train_size`` is out of range or leaves fewer training images than classes; or
            ``folds`` or ``fold`` is out of range.
    """
    if folds is None:
        val_count = _val_count(images, classes=classes, val_size=val_size)
    else:
        fold_slice = _fold_slice(images, val_size=val_size, folds=folds, fold=fold)
        val_count = fold_slice.stop - fold_slice.start

    remaining = images - val_count
    if train_size is None:
        return remaining, val_count
    allowed = f"must be null, a count from {classes} (an image a class) to {remaining} or a fraction in (0, 1]"
    allowed += f" of the {remaining:,} images that validation leaves"
    train_count = _count("train_size", train_size, remaining, allowed, allow_one=True)
    if not classes <= train_count <= remaining:
        raise ConfigError("train_size", train_size, allowed)
    return train_count, val_count


def _val_count(images: int, *, classes: int, val_size: int | float) -> int:
    """Return the number of validation images without ``folds``."""
    max_count = images - classes
    allowed = f"must be a count from 0 to {max_count} or a fraction in [0, 1) of the {images:,} images"
    allowed += f": at least one image of each of the {classes} classes is left to train on"
    val_count = _count("val_size", val_size, images, allowed, allow_one=False)
    if val_count == 0 and val_size > 0:
        raise ConfigError("val_size", val_size, f"is less than one of the {images:,} images: 0 means no validation")
    if not 0 <= val_count <= max_count:
        raise ConfigError("val_size", val_size, allowed)
    return val_count


def _fold_slice(images: int, *, val_size: int | float, folds: int, fold: int) -> slice:
    """Return which part of the stratified order of all images is the validation set of ``fold``.

    Every contiguous part of the order that ``stratified`` returns is stratified itself, up to about one image a class.
    """
    if not 2 <= folds <= images:
        raise ConfigError("folds", folds, f"must be null or a count from 2 to {images}, the number of images")
    if not 0 <= fold < folds:
        raise ConfigError("fold", fold, f"must be a count from 0 to {folds - 1}, as data.folds is {folds}")
    if val_size == 0:
        raise ConfigError("val_size", val_size, "must be above 0 with data.folds: one fold is the validation set")
    return slice(images * fold // folds, images * (fold + 1) // folds)


def _count(key: str, size: int | float, images: int, allowed: str, *, allow_one: bool) -> int:
    """Convert a size, a count or a fraction of ``images``, to a count; raise ``ConfigError`` for a wrong fraction.

    ``allowed`` is the text of the error about what is allowed. ``allow_one`` says whether the fraction 1, which takes
    all images, is allowed.
    """
    if isinstance(size, int):
        return size
    if not (0 <= size < 1 or (allow_one and size == 1)):
        raise ConfigError(key, size, allowed)
    return round(size * images)


def split_indices(
    labels: Tensor,
    *,
    val_size: int | float,
    train_size: int | float | None,
    split_seed: int,
    folds: int | None = None,
    fold: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the indices of training and validation images, int64 and ascending; ``labels`` is an integer tensor (N,).

    The steps are: shuffle all images, order them so that every part is stratified, take the validation images, order
    the others again, and take the training images. So the two parts are disjoint, and a class has the same share in
    both, up to about one image. A smaller ``train_size`` takes a subset of the images that a larger one takes, and does
    not change the validation images. The validation images of all ``folds`` together are the whole set, each image
    once.

    Raises:
        ConfigError: as ``split_counts``; or a class has so few images that none is left to train on.
    """
    targets = labels.cpu().numpy()
    present = np.unique(targets)
    train_count, val_count = split_counts(
        len(targets), classes=len(present), val_size=val_size, train_size=train_size, folds=folds, fold=fold
    )
    shuffled = _shuffled(len(targets), split_seed)
    order = shuffled[stratified(targets[shuffled])]
    val_slice = slice(val_count)
    if folds is not None:
        val_slice = _fold_slice(len(targets), val_size=val_size, folds=folds, fold=fold)
    val, rest = order[val_slice], np.delete(order, val_slice)
    # The order repeats the classes again and again. Those that came just before the cut come late in the rest, so a
    # small ``train_size`` would lack them. Therefore the rest is stratified again.
    train = rest[stratified(targets[rest])][:train_count]
    val_key, val_setting = ("val_size", val_size) if folds is None else ("folds", folds)
    for key, size, indices in ((val_key, val_setting, rest), ("train_size", train_size, train)):
        missing = np.setdiff1d(present, targets[indices])
        if len(missing):
            raise ConfigError(key, size, f"must leave at least one image of class {missing[0]} to train on")
    return torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(val))


def split_fingerprint(train_indices: Tensor, val_indices: Tensor) -> str:
    """Return 16 hexadecimal digits that identify a split.

    Two runs have the same fingerprint if and only if they train and validate on the same images.
    """
    digest = hashlib.sha256()
    for indices in (train_indices, val_indices):
        digest.update(len(indices).to_bytes(8, "little"))
        digest.update(indices.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _shuffled(count: int, split_seed: int) -> _Ints:
    """Return a random order of ``count`` positions."""
    # NumPy may change Generator.permutation between versions, but not the bits of a BitGenerator (NEP 19).
    bits = np.random.PCG64(stream_seed("split", split_seed)).random_raw(count)
    return np.argsort(bits, kind="stable")


def stratified(targets: npt.NDArray[np.integer]) -> _Ints:
    """Return an order of the images in which each class has the same share of the first m images, for every m.

    The j-th of the n images of a class, counted from 0, gets the position (j + 1/2) / n, and images are sorted by their
    position. Sainte-Laguë (1910) distributes seats in a parliament in this way. With largest remainders, a class could
    lose an image when the total grows (the Alabama paradox), and smaller training sets would not be subsets of larger
    ones.
    """
    _, classes, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    # Sorted by class, the images of a class are one block, which begins at its entry of ``starts``. So j is the
    # distance from the beginning of the block.
    by_class = np.argsort(classes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    position = np.empty(len(targets))
    position[by_class] = (np.arange(len(targets)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    # By position, and by class where positions are equal: ``lexsort`` takes the most important key last.
    return np.lexsort((classes, position))
