"""Which images of the official training set train and which validate: stratified, and fixed by ``split_seed`` alone.

Indices are drawn from raw bits of PCG64, a stream that NumPy keeps the same for good, so neither PyTorch's version nor
the state of its random generator moves an image from one side to the other.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from digitlab.data.seeding import stream_seed
from digitlab.schema import ConfigError

_Ints = npt.NDArray[np.int64]


def split_counts(
    images: int, *, classes: int, val_size: int | float, train_size: int | float | None
) -> tuple[int, int]:
    """How many images train and how many validate, out of this many; needs no data, so it can check a configuration.

    ``val_size`` is a count, or a fraction in [0, 1) of all images. ``train_size`` is a count, or a fraction in (0, 1]
    of the images that validation leaves; None takes them all.

    Raises:
        ConfigError: ``val_size`` or ``train_size`` is out of range, or leaves fewer images to train on than classes.
    """
    most = images - classes
    allowed = f"must be a count from 0 to {most} or a fraction in [0, 1) of the {images:,} images"
    allowed += f": at least one image of each of the {classes} classes is left to train on"
    val_count = _count("val_size", val_size, images, allowed, whole=False)
    if not 0 <= val_count <= most:
        raise ConfigError("val_size", val_size, allowed)

    left = images - val_count
    if train_size is None:
        return left, val_count
    allowed = f"must be null, a count from {classes} (an image a class) to {left} or a fraction in (0, 1]"
    allowed += f" of the {left:,} images that validation leaves"
    train_count = _count("train_size", train_size, left, allowed, whole=True)
    if not classes <= train_count <= left:
        raise ConfigError("train_size", train_size, allowed)
    return train_count, val_count


def _count(key: str, size: int | float, images: int, allowed: str, *, whole: bool) -> int:
    if isinstance(size, int):
        return size
    if not (0 <= size < 1 or (whole and size == 1)):
        raise ConfigError(key, size, allowed)
    return round(size * images)


def split_indices(
    labels: Tensor, *, val_size: int | float, train_size: int | float | None, split_seed: int
) -> tuple[Tensor, Tensor]:
    """Indices of training and validation images, each int64 and ascending; ``labels`` is integer (N,).

    Both are stratified: a class has its share of each, to about one image. They are disjoint; a smaller ``train_size``
    takes a subset of what a larger one takes, and the validation images do not depend on it.

    Raises:
        ConfigError: as ``split_counts``, or a class is so rare that no image of it would be left to train on.
    """
    targets = labels.cpu().numpy()
    present = np.unique(targets)
    train_count, val_count = split_counts(len(targets), classes=len(present), val_size=val_size, train_size=train_size)
    shuffled = _shuffled(len(targets), split_seed)
    order = shuffled[_stratified(targets[shuffled])]
    val, rest = order[:val_count], order[val_count:]
    # The rest is put in order anew, or its first few images would lack the classes whose turn was just over.
    train = rest[_stratified(targets[rest])][:train_count]
    for key, size, indices in (("val_size", val_size, rest), ("train_size", train_size, train)):
        missing = np.setdiff1d(present, targets[indices])
        if len(missing):
            raise ConfigError(key, size, f"must leave at least one image of class {missing[0]} to train on")
    return torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(val))


def fingerprint(train_indices: Tensor, val_indices: Tensor) -> str:
    """16 hexadecimal digits that name a split: equal for two runs if and only if they trained on the same images."""
    digest = hashlib.sha256()
    for indices in (train_indices, val_indices):
        digest.update(len(indices).to_bytes(8, "little"))
        digest.update(indices.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _shuffled(count: int, split_seed: int) -> _Ints:
    # Generator.permutation may change between versions of NumPy; the bits of a BitGenerator may not (NEP 19).
    bits = np.random.PCG64(stream_seed("split", split_seed)).random_raw(count)
    return np.argsort(bits, kind="stable")


def _stratified(targets: npt.NDArray[np.integer]) -> _Ints:
    """An order of which every beginning is stratified: the j-th of n images of a class stands at (j + 1/2) / n.

    This is how Sainte-Laguë (1910) gives out seats. Largest remainders would give a class fewer images of a larger
    total now and then (the Alabama paradox), and training sets would no longer be nested.
    """
    _, classes, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(targets))
    place[by_class] = (np.arange(len(targets)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    return np.lexsort((classes, place))
