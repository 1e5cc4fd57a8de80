"""Checks the labels that a Python user passes and names their classes. Wrong labels raise an error of one line."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from digitlab.api.arguments import brief
from digitlab.core.errors import ConfigError

# Label files hold one byte for each label.
_MAX_CLASSES = 256


def as_labels(labels: Any, key: str) -> Tensor | list[str]:
    """Return ``labels`` (N,) as an int64 tensor, or as a list if they are texts, which name the classes.

    Raises ``ConfigError`` for anything else, such as floats or one-hot rows; ``key`` is the name in its message.
    """
    if isinstance(labels, Iterator):
        raise ConfigError(key, f"labels <{type(labels).__name__}>", "can be read only once: pass list(labels)")
    try:
        values = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise ConfigError(key, "labels", "must be one number each, (N,)") from error
    if values.ndim == 2 and values.shape[1] > 1:
        raise ConfigError(key, f"labels {values.shape}", "must be one number each, (N,): write labels.argmax(1)")
    if values.ndim == 2:
        array = "labels.to_numpy()" if hasattr(labels, "to_numpy") else "labels"
        raise ConfigError(key, f"labels {values.shape}", f"must be one number each, (N,): write {array}.reshape(-1)")
    if values.ndim != 1:
        raise ConfigError(key, f"labels {values.shape}", "must be one number each, (N,)")
    # NumPy's kinds: U and T are texts, O is Python objects, i and u are whole numbers, f is floats.
    if values.dtype.kind in "UT" or (values.dtype.kind == "O" and all(isinstance(each, str) for each in values)):
        return [str(each) for each in values]
    if values.dtype.kind not in "iu":
        if missing := [number for number, each in enumerate(values) if each is None or str(each) == "nan"]:
            raise ConfigError(key, f"label {values[missing[0]]}", f"image {missing[0]} has no label: leave it out")
        hint = "write labels.astype(int)" if values.dtype.kind in "fb" else "or the names of the classes"
        raise ConfigError(key, f"labels of {values.dtype}", f"must be whole numbers, 0 … K - 1: {hint}")
    return torch.from_numpy(values.astype(np.int64))


def label_names(labels: Sequence[Tensor | list[str]], names: Sequence[str] | None) -> list[str]:
    """Return the names of the K classes of a data set. ``labels`` holds the labels of each of its parts.

    ``names`` are those that the user gave. If they are None, a label that is a text is the name of its class, and a
    class number is written as text. Raises ``ConfigError`` if the labels can't be those of 2 to 256 classes.
    """
    are_texts = [not isinstance(part, Tensor) for part in labels]
    if any(are_texts) != all(are_texts):
        raise ConfigError("test_data", "labels", "must be texts in both parts of the data, or numbers in both")
    if names is not None:
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            raise ConfigError("class_names", brief(names), 'must be a list of texts, such as ["cat", "dog"]')
        if len(set(names)) < len(names) or not 2 <= len(names) <= _MAX_CLASSES:
            raise ConfigError("class_names", names, f"must be from 2 to {_MAX_CLASSES} names, each of them once")
        if unknown := sorted({each for part in labels if not isinstance(part, Tensor) for each in part} - set(names)):
            raise ConfigError("data", f"label {unknown[0]}", f"is not among class_names: {', '.join(names)}")
        return list(names)
    distinct = sorted({each for part in labels for each in (part.tolist() if isinstance(part, Tensor) else part)})
    if not any(are_texts):
        _refuse_gaps(distinct)
    if not 2 <= len(distinct) <= _MAX_CLASSES:
        raise ConfigError(
            "data", f"labels of {len(distinct)} classes", f"there must be from 2 to {_MAX_CLASSES} classes"
        )
    return [str(each) for each in distinct]


def _refuse_gaps(numbers: Sequence[Any]) -> None:
    """Raise ``ConfigError`` unless the class numbers, in ascending order, are 0 … K - 1."""
    if list(numbers) == list(range(len(numbers))):
        return
    hint = "give the names of all classes as class_names, if some have no images"
    if list(numbers) == list(range(1, len(numbers) + 1)):
        hint = "subtract 1 from each"
    raise ConfigError("data", f"labels from {numbers[0]} to {numbers[-1]}", f"must be 0 … K - 1 without a gap: {hint}")
