"""The setting ``loss.class_weights``: checks it against the class names and turns it into a weight for each class.

``losses.CrossEntropy`` uses it. K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from digitlab.config.schema import PositiveFloat
from digitlab.config.suggestions import nearest
from digitlab.core.errors import ConfigError, listed

# The keys of the dictionary are class names. YAML and Hydra read names such as 7 or true as numbers and truth values.
ClassWeights = Literal["balanced"] | dict[str | int | float | bool, PositiveFloat]

_MAX_LISTED_CLASSES = 12


def weight_of_each_class(
    setting: ClassWeights, class_names: Sequence[str], train_counts: Sequence[int] | None
) -> list[float]:
    """Return the weights of the K classes, as ``setting`` defines them.

    ``balanced`` gives a class the weight N / (K · n) if n of the N training images belong to it; classes without
    training images do not count in K. Then each class has the same total weight, and the mean weight over the training
    images is 1. A class without training images gets weight 1; so does a class that a dictionary does not name.
    ``train_counts`` are the K counts of the training split. With None, only the names are checked, and ``balanced``
    gives ones.

    Raises:
        ConfigError: the dictionary names no class, or one that does not exist.
    """
    if not isinstance(setting, dict):
        counts = list(train_counts or [1] * len(class_names))
        present = sum(count > 0 for count in counts)
        return [sum(counts) / (present * count) if count else 1.0 for count in counts]
    named = {_as_text(name): weight for name, weight in setting.items()}
    if not named:
        raise ConfigError("class_weights", {}, "must name at least one class, or be null or balanced")
    for name in named:
        if name not in class_names:
            raise ConfigError("class_weights", setting, _no_such_class(name, class_names))
    return [named.get(name, 1.0) for name in class_names]


def _as_text(name: object) -> str:
    """Return a class name as the user typed it."""
    return str(name).lower() if isinstance(name, bool) else str(name)


def _no_such_class(name: str, class_names: Sequence[str]) -> str:
    names = listed(class_names, most=_MAX_LISTED_CLASSES)
    return f"there is no class {name}{nearest(name, class_names)}; the classes are {names}"


def is_weighted(node: Mapping[str, object]) -> bool:
    """Return whether the configuration node ``loss`` has class weights."""
    return node.get("class_weights") is not None
