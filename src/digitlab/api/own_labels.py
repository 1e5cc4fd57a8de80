"""Checks the labels that a Python user passes and names their classes. Wrong labels raise an error of one line."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from digitlab.core.errors import ConfigError

# Label files hold one byte for each label.
_MAX_CLASSES = 256


def as_labels(labels: Any, key: str) -> Tensor | list[str]:
    """Return ``labels`` (N,) as an int64 tensor, or as a list if they are texts, which name the classes.

    Raises ``ConfigError`` for floats, for one-hot rows, and for anything else; ``key`` is the name in its message.
    """
    values = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] > 1:
        raise ConfigError(key, f"labels {values.shape}", "must be one number each, (N,): write labels.argmax(1)")
    if values.ndim != 1:
        raise ConfigError(key, f"labels {values.shape}", "must be one number each, (N,)")
    if values.dtype.kind in "UT" or (values.dtype.kind == "O" and all(isinstance(each, str) for each in values)):
        return [str(each) for each in values]
    if values.dtype.kind not in "iu":
        hint = "write labels.astype(int)" if values.dtype.kind == "f" else "or the names of the classes"
        raise ConfigError(key, f"labels of {values.dtype}", f"must be whole numbers, 0 … K - 1: {hint}")
    return torch.from_numpy(values.astype(np.int64))


def label_names(labels: Sequence[Tensor | list[str]], names: Sequence[str] | None) -> list[str]:
    """Return the names of the K classes that ``labels``, of all parts of a data set, belong to.

    ``names`` are those that the user gave, or None: then texts are their own names, and numbers are named by
    themselves. Raises ``ConfigError`` if the labels can't be those of 2 to 256 classes.
    """
    texts = [not isinstance(each, Tensor) for each in labels]
    if any(texts) != all(texts):
        raise ConfigError("test_data", "labels", "must be texts in both parts of the data, or numbers in both")
    if names is not None:
        names = [str(name) for name in names]
        if len(set(names)) < len(names) or not 2 <= len(names) <= _MAX_CLASSES:
            raise ConfigError("class_names", names, f"must be from 2 to {_MAX_CLASSES} names, each of them once")
        if unknown := sorted({each for part in labels if not isinstance(part, Tensor) for each in part} - set(names)):
            raise ConfigError("data", f"label {unknown[0]}", f"is not among class_names: {', '.join(names)}")
        return names
    found = sorted({each for part in labels for each in (part.tolist() if isinstance(part, Tensor) else part)})
    if not any(texts):
        _refuse_gaps(found)
    if not 2 <= len(found) <= _MAX_CLASSES:
        raise ConfigError("data", f"labels of {len(found)} classes", f"there must be from 2 to {_MAX_CLASSES} classes")
    return [str(each) for each in found]


def _refuse_gaps(found: Sequence[Any]) -> None:
    """Raise ``ConfigError`` unless the numbers ``found`` are 0 … K - 1."""
    if not found or list(found) == list(range(len(found))):
        return
    hint = "give the names of all classes as class_names, if some have no images"
    if list(found) == list(range(1, len(found) + 1)):
        hint = "subtract 1 from each"
    raise ConfigError("data", f"labels from {found[0]} to {found[-1]}", f"must be 0 … K - 1 without a gap: {hint}")
