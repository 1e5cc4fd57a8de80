"""Turns images that a Python user passes to ``digitlab.train`` into four IDX files and a node of the configuration.

IDX is the file format of MNIST. A digest of the images and labels names the folder of the files, so the same images are
written only once. Because the files remain, another process can resume, evaluate and report the runs, and all runs of a
sweep share one copy.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from digitlab.api.arguments import brief
from digitlab.api.own_arrays import as_images
from digitlab.api.own_labels import as_labels, label_names
from digitlab.core.errors import ConfigError
from digitlab.data.checks import wrong_label
from digitlab.data.idx import write_idx
from digitlab.data.splits import split_indices

# If the user passes no test set, this share of the images of each class becomes the test set.
_TEST_SHARE = 0.2
# The default of ``data.val_size``, as a share of the training images.
_VAL_SHARE = 0.1
# With fewer images than this, small mini-batches are the default. Otherwise an epoch would have only a few updates.
_FEW_IMAGES, _SMALL_BATCH = 5000, 32
_FILES = ("train-images", "train-labels", "test-images", "test-labels")


@dataclass(frozen=True, slots=True)
class _LabelledImages:
    """The images of a training or test set, uint8 (N, C, H, W), and their N labels.

    ``labels`` is a list of class names, or the numbers of the classes, int64 (N,). ``_with_numbers`` replaces names by
    numbers.
    """

    images: Tensor
    labels: Any


def own_data(data: Any, test_data: Any, class_names: Sequence[str] | None, *, root: Path) -> dict[str, Any]:
    """Write ``data`` below ``root`` and return the configuration node ``data`` that reads the files.

    ``data`` and ``test_data`` are pairs (images, labels) or torch data sets; ``as_images`` and ``as_labels`` say which
    arrays are allowed. Without ``test_data``, a fifth of the images of each class becomes the test set. Raises
    ``ConfigError`` for images or labels that cannot be used.
    """
    train, names = _read(data, "data")
    test, test_names = (None, None) if test_data is None else _read(test_data, "test_data")
    names = label_names([part.labels for part in (train, test) if part is not None], class_names or names or test_names)
    train = _with_numbers(train, names, "data")
    if test is None:
        _require_images(train.labels, names, least=3, purposes="one to train on, one to validate and one to test with")
        # ``split_indices`` splits off validation images. Here they become the test set.
        train_and_test_indices = split_indices(train.labels, val_size=_TEST_SHARE, train_size=None, split_seed=0)
        train, test = (
            _LabelledImages(train.images[indices], train.labels[indices]) for indices in train_and_test_indices
        )
    else:
        test = _with_numbers(test, names, "test_data")
        _require_images(train.labels, names, least=2, purposes="one to train on and one to validate with")
    if test.images.shape[1:] != train.images.shape[1:]:
        shapes = [tuple(part.images.shape[1:]) for part in (train, test)]
        raise ConfigError(
            "test_data", f"images {shapes[1]}", f"must have the shape of the training images, {shapes[0]}"
        )
    folder = _write(root, train, test)
    node: dict[str, Any] = {
        "source": {
            "_target_": "digitlab.data.sources.IdxSource", "name": "own", "title": "own images", "class_names": names,
            **{name.replace("-", "_"): f"${{data.root}}/own/{folder}/{name}" for name in _FILES},
        },
        "val_size": _VAL_SHARE,
    }  # fmt: skip
    return node | ({"batch_size": _SMALL_BATCH} if len(train.images) < _FEW_IMAGES else {})


def _read(data: Any, key: str) -> tuple[_LabelledImages, list[str] | None]:
    """Return the images and labels of ``data``, and its attribute ``classes``, which names the classes, if it has one.

    ``key`` is the name of the argument in error messages.
    """
    names = getattr(data, "classes", None)
    if not isinstance(data, list | tuple):
        data = _pair_of_data_set(data, key)
    if len(data) != 2:
        of_pairs = bool(data) and all(isinstance(each, tuple) and len(each) == 2 for each in data)
        hint = ": write images, labels = zip(*data), and pass (images, labels)" if of_pairs else ""
        raise ConfigError(key, f"{len(data)} items", f"must be a pair (images, labels) or a torch data set{hint}")
    images, labels = as_images(data[0], key), as_labels(data[1], key)
    if not len(images):
        raise ConfigError(key, "0 images", "must have images")
    if len(images) != len(labels):
        raise ConfigError(key, f"{len(images)} images and {len(labels)} labels", "each image needs one label")
    return _LabelledImages(images, labels), None if names is None else [str(name) for name in names]


def _pair_of_data_set(data: Any, key: str) -> tuple[Any, Any]:
    """Return the images and labels of a torch data set.

    Each item is read only once. If the data set transforms its images at random, the result of this one read is used.
    """
    if isinstance(data, torch.utils.data.TensorDataset):
        tensors = data.tensors
        if len(tensors) == 2:
            return tensors[0], tensors[1]
    if isinstance(data, torch.utils.data.DataLoader):
        raise ConfigError(key, "<DataLoader>", "must be the data set itself: pass loader.dataset")
    # These have a length and items, too, but their items are characters, rows, columns or entries.
    is_no_data_set = isinstance(data, str | Mapping | np.ndarray | Tensor | Path) or hasattr(data, "to_numpy")
    if is_no_data_set or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        or_name = ', or the name of one, as "mnist"' if key == "data" else ""
        allowed = f"must be a pair (images, labels) or a torch data set with a length{or_name}"
        if isinstance(data, Iterator):
            allowed += ": write images, labels = zip(*data), and pass (images, labels)"
        if isinstance(data, Path):
            allowed += f"; for a folder of pictures, data=folder data.path={data} are overrides"
        raise ConfigError(key, brief(data), allowed)
    try:
        pairs = (_pair(data[index]) for index in range(len(data)))
        items = [(np.asarray(image), _label(label)) for image, label in pairs]
    except Exception as error:  # the user's code can raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(key, f"<{type(data).__name__}>", f"each item must be (image, label): {reason}") from error
    return [image for image, _ in items], [label for _, label in items]


def _pair(item: Any) -> Any:
    if isinstance(item, Mapping):  # unpacking it would give its keys
        raise TypeError(f"it is a dict of {', '.join(map(str, item))}")
    return item


def _label(label: Any) -> int | str:
    return label if isinstance(label, str) else int(label)


def _with_numbers(part: _LabelledImages, names: Sequence[str], key: str) -> _LabelledImages:
    """Return ``part`` with class numbers as labels: the number of a class is its position in ``names``."""
    labels = part.labels
    if not isinstance(labels, Tensor):
        number_of = {name: number for number, name in enumerate(names)}
        labels = torch.tensor([number_of[str(label)] for label in labels])
    if problem := wrong_label(labels, len(names)):
        raise ConfigError(key, "labels", problem)
    return _LabelledImages(part.images, labels)


def _require_images(labels: Tensor, names: Sequence[str], *, least: int, purposes: str) -> None:
    """Raise ``ConfigError`` if a class has some images, but fewer than ``least``; the message names ``purposes``."""
    for name, count in zip(names, labels.bincount(minlength=len(names)).tolist(), strict=True):
        if 0 < count < least:  # a class without images gets a warning in the log
            allowed = f"each class needs {least} images or more, {purposes}; it has {count}"
            raise ConfigError("data", f"class {name}", allowed)


def _write(root: Path, train: _LabelledImages, test: _LabelledImages) -> str:
    """Write the four files, unless they exist, and return the name of their folder: a digest of their content."""
    tensors = [train.images, train.labels.to(torch.uint8), test.images, test.labels.to(torch.uint8)]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    folder = digest.hexdigest()[:16]
    for file, tensor in zip(_FILES, tensors, strict=True):
        path = root / "own" / folder / file
        if not path.exists():
            write_idx(path, tensor)
    return folder
