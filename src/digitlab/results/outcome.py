"""Reads the monitored value of a finished run from its folder: the value by which runs are compared.

Sweeps and searches use it, and so does successive halving, which stops the worse runs of a sweep early. This module
does not import torch.
"""

import math
from pathlib import Path
from typing import Any

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import ConfigError, DigitlabError
from digitlab.core.files import error_text
from digitlab.results.folder import RunFolder

# The exceptions that reading a run can raise if its result or configuration is missing, damaged or not digitlab's.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, DigitlabError)


def unreadable_reason(error: Exception) -> str:
    """Return in one line why a run can't be read; ``error`` is one of ``UNREADABLE``."""
    if isinstance(error, ConfigError):
        return error.allowed
    if isinstance(error, OSError):
        return f"{Path(error.filename).name if error.filename else 'a file'}: {error.strerror or error}"
    files = "result.json or .hydra/config.yaml"  # those that the caller has read
    if isinstance(error, KeyError):
        return f"{files} has no {error}"
    if isinstance(error, TypeError | AttributeError):
        return f"{files} is not one of digitlab's"
    return error_text(error)


def monitored(run: RunFolder, result: dict[str, Any]) -> tuple[str, float]:
    """Return the metric that a finished run monitored, and its value at the checkpoint that ``result`` describes.

    The metric is never one of the test set. If the value is not a number, the worst infinite value replaces it.
    Raises ``OSError``, ``ValueError``, ``KeyError`` or ``ConfigError`` if the run's files can't be read.
    """
    config = run.read_plain_config()
    metrics = result["metrics"]
    metric = str(config["monitor"]["metric"])
    if metric not in metrics:
        metric = measured_metric(metric, val_size=config["data"]["val_size"])
    return metric, finite_or_worst(metric, metrics[metric])


def measured_metric(metric: str, *, val_size: object) -> str:
    """Return the metric that a run monitors if its configuration says ``metric``.

    Without a validation set (``val_size`` is 0), this is the same metric of the training images.
    """
    return metric.replace("val/", "train/") if val_size == 0 else metric


def finite_or_worst(metric: str, value: float | None) -> float:
    """Return ``value``, or if it is None or not a number, the infinity that is worse than every value of ``metric``."""
    worst = -math.inf if metric_direction(metric) == "max" else math.inf
    return worst if value is None or math.isnan(value) else float(value)
