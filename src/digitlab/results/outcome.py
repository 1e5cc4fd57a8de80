"""Reads the monitored value of a finished run from its folder. Sweeps, searches and halving compare runs by it.

Nothing here imports torch.
"""

import math
from typing import Any

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import DigitlabError
from digitlab.results.folder import RunFolder

# The errors that readers meet if a run's result or configuration is missing, truncated or not one of digitlab's.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, DigitlabError)


def monitored(run: RunFolder, result: dict[str, Any]) -> tuple[str, float]:
    """Return the metric that a finished run monitored, and its value at the checkpoint that ``result`` describes.

    The metric is never one of the test set. A value that is not a number counts as infinite and worse than all others.
    Raises ``OSError``, ``ValueError``, ``KeyError`` or ``ConfigError`` if the run's files can't be read.
    """
    config = run.read_plain_config()
    metrics = result["metrics"]
    metric = str(config["monitor"]["metric"])
    if metric not in metrics:
        metric = measured_metric(metric, val_size=config["data"]["val_size"])
    return metric, finite_or_worst(metric, metrics[metric])


def measured_metric(metric: str, *, val_size: object) -> str:
    """Return what a run monitors whose configuration says ``metric``: without a validation set, training instead."""
    return metric.replace("val/", "train/") if val_size == 0 else metric


def finite_or_worst(metric: str, value: float | None) -> float:
    """Return ``value``, or the infinity that is worse than every value of ``metric`` if it is None or not a number."""
    worst = -math.inf if metric_direction(metric) == "max" else math.inf
    return worst if value is None or math.isnan(value) else float(value)
