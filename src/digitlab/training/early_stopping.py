"""Decides which value of the monitored metric is the best, and when a run stops early.

Both depend only on the history of the metric, so a resumed run computes them again from the history in its checkpoint.
Runs that train alone and members of populations (runs that train together) use this module.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from digitlab.config.schema import NonNegativeFloat, PositiveInt, settings


@settings
class Monitor:
    """The metric by which checkpoints, early stopping, sweeps and searches decide, and the direction that is better."""

    metric: str
    mode: Literal["min", "max"]

    def better(self, value: float, than: float, *, by: float = 0.0) -> bool:
        """Return whether ``value`` is better than ``than`` by more than ``by``; a value that is not finite never is."""
        return math.isfinite(value) and (value > than + by if self.mode == "max" else value < than - by)

    @property
    def worst(self) -> float:
        """The infinite value that is worse than all others."""
        return -math.inf if self.mode == "max" else math.inf


@settings
class EarlyStopping:
    """Stop after ``patience`` epochs, or steps (updates), without an improvement of more than ``min_delta``."""

    patience: PositiveInt
    unit: Literal["epochs", "steps"] = "epochs"
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True, slots=True)
class MonitorValue:
    """A value of the monitored metric in ``epoch`` (counted from 1), after ``step`` updates of the whole run."""

    epoch: int
    step: int
    value: float


class BestTracker:
    """Keeps the history of the monitored metric and its best point, and says whether the run should stop early.

    With ``last_is_best`` each new point is the best one. This is for runs without validation images: the training
    images do not show which epoch is the best.
    """

    def __init__(
        self,
        *,
        monitor: Monitor,
        early_stopping: EarlyStopping | None = None,
        last_is_best: bool = False,
        history: Iterable[MonitorValue] = (),
    ) -> None:
        self.monitor, self.last_is_best = monitor, last_is_best
        self.early_stopping = early_stopping
        self.history: list[MonitorValue] = []
        self.best: MonitorValue | None = None
        # The last point that was better by more than min_delta, from which the patience counts. It can be earlier than
        # ``best``: a smaller gain gives a new best checkpoint, but it does not restart the patience.
        self._last_progress: MonitorValue | None = None
        for point in history:
            self.update(point)

    def update(self, point: MonitorValue) -> bool:
        """Add a point; return whether it is the best so far. Of equal points the earlier one is best; nan is never."""
        self.history.append(point)
        best = self.monitor.worst if self.best is None else self.best.value
        improved = self.last_is_best or self.monitor.better(point.value, best)
        if improved:
            self.best = point
        reference = self.monitor.worst if self._last_progress is None else self._last_progress.value
        min_delta = 0.0 if self.early_stopping is None else self.early_stopping.min_delta
        if self.monitor.better(point.value, reference, by=min_delta):
            self._last_progress = point
        return improved

    @property
    def should_stop(self) -> bool:
        """Whether the last improvement is ``patience`` or more epochs (or steps) ago."""
        if self.early_stopping is None or not self.history:
            return False
        # Without any improvement, the patience counts from the beginning of the run.
        last, improvement = self.history[-1], self._last_progress or MonitorValue(0, 0, math.nan)
        in_epochs = self.early_stopping.unit == "epochs"
        waited = last.epoch - improvement.epoch if in_epochs else last.step - improvement.step
        return waited >= self.early_stopping.patience
