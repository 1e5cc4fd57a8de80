"""Names the metrics, and says for each whether small or large values are better.

Checkpoints, sweeps, tables and reports use it. This module does not import torch.
"""

from typing import Literal

from digitlab.config.suggestions import not_one_of
from digitlab.core.errors import ConfigError

Direction = Literal["min", "max"]

NAMES = ("loss", "accuracy", "balanced_accuracy", "f1", "f1_weighted")
# The metrics by which a run can choose its best checkpoint.
MONITORS = tuple(f"{split}/{name}" for split in ("val", "train") for name in NAMES)

# A metric whose name contains one of these words is better when it is small.
_SMALL_IS_BETTER = frozenset(("loss", "error", "seconds"))


def metric_direction(metric: str) -> Direction:
    """Return ``min`` for losses, errors and seconds, and ``max`` for all other metrics.

    ``metric`` is a key as in ``result.json``: ``val/accuracy``, ``test/calibration_error``, ``train_seconds``.
    """
    # A third part is a class of the data set. It is ignored, because a class can be called "loss":
    # test/class_accuracy/loss.
    first, slash, rest = metric.partition("/")
    name = rest.partition("/")[0] if slash else first
    return "max" if _SMALL_IS_BETTER.isdisjoint(name.split("_")) else "min"


def check_monitor(metric: str, mode: str) -> None:
    """Raise ``ConfigError`` if a run can't monitor ``metric``, or if ``mode`` is not its direction."""
    val_metric = f"val/{metric.removeprefix('test/')}"
    if metric.startswith("test/") and val_metric in MONITORS:
        reason = "a network that is chosen by its result on the test set looks better there than it is"
        raise ConfigError("monitor.metric", metric, f"must be another metric, such as {val_metric}: {reason}")
    if metric not in MONITORS:
        raise not_one_of("monitor.metric", metric, MONITORS)
    direction = metric_direction(metric)
    if mode != direction:
        raise ConfigError("monitor.mode", mode, f"must be {direction} for monitor.metric={metric}")
