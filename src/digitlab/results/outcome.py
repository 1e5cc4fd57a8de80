"""Reads the monitored value of a finished run from its folder: what sweeps, searches and halving compare.

Nothing here imports torch, unless a checkpoint must be read.
"""

import math
from typing import Any

from digitlab.config.compose import direction
from digitlab.core.errors import DigitlabError
from digitlab.results.folder import RunFolder

# What is raised where a run's result or configuration is missing, cut short or of another make.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, DigitlabError)


def monitored(run: RunFolder, result: dict[str, Any]) -> tuple[str, float]:
    """The monitored metric of a finished run and its value at the best checkpoint, never one of the test set.

    Where it never was a number, the value is infinite and worse than all others. Raises ``OSError``, ``ValueError``,
    ``KeyError``, ``ConfigError`` or ``RunError`` where the run's files can't be read.
    """
    config = run.read_plain_config()
    metric, metrics = str(config["monitor"]["metric"]), result["metrics"]
    if config["test"] == "last":
        from digitlab.results.checkpoint import read_checkpoint

        metrics = read_checkpoint(run.best)["metrics"]
    if metric not in metrics and config["data"]["val_size"] == 0:
        metric = metric.replace("val/", "train/")  # as the run itself does where there is no validation set
    value = metrics[metric]
    worst = -math.inf if direction(metric) == "max" else math.inf
    return metric, worst if value is None or math.isnan(value) else float(value)
