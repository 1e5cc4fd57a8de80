"""Says for each metric whether small or large values are better: checkpoints, sweeps, tables and reports ask here."""

from typing import Literal

Direction = Literal["min", "max"]

# A metric whose name contains one of these words is better when it is small.
_SMALL_IS_BETTER = frozenset(("loss", "error", "seconds"))


def metric_direction(metric: str) -> Direction:
    """Return ``min`` for losses, errors and seconds, and ``max`` for all other metrics.

    ``metric`` is a key as in ``result.json``: ``val/accuracy``, ``test/calibration_error``, ``train_seconds``.
    """
    # The part after the name is a class of the data set, which may have any name: test/class_accuracy/loss.
    split, slash, rest = metric.partition("/")
    name = rest.partition("/")[0] if slash else split
    return "max" if _SMALL_IS_BETTER.isdisjoint(name.split("_")) else "min"
