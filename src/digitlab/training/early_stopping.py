"""Which moment of a run is best, and when to stop waiting for a better one: a pure function of the metric history.

It knows no Trainer, so one serves a solo run and each member of a population.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from digitlab.config.schema import NonNegativeFloat, PositiveInt, settings


@settings
class Monitor:
    """The one metric that checkpoints, early stopping, sweeps and searches go by, and which way it is better."""

    metric: str
    mode: Literal["min", "max"]

    def better(self, value: float, than: float, *, by: float = 0.0) -> bool:
        """Whether ``value`` is better by more than ``by``; what is not finite never is."""
        return math.isfinite(value) and (value > than + by if self.mode == "max" else value < than - by)

    @property
    def worst(self) -> float:
        return -math.inf if self.mode == "max" else math.inf


@settings
class EarlyStopping:
    """Stop once ``patience`` epochs, or steps (mini-batches), brought nothing better by more than ``min_delta``."""

    patience: PositiveInt
    unit: Literal["epochs", "steps"] = "epochs"
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True, slots=True)
class MonitorValue:
    """A value of the monitored metric after ``epoch`` (counted from 1) and ``step`` mini-batches of the whole run."""

    epoch: int
    step: int
    value: float


class BestTracker:
    """The best point of a history, and whether patience has run out.

    ``last_is_best`` is for a run without validation images, which has nothing to choose by.
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
        # Early stopping has its own reference: a gain of less than min_delta is a new best, but buys no patience.
        self._progress_at: MonitorValue | None = None
        for point in history:
            self.update(point)

    def update(self, point: MonitorValue) -> bool:
        """Take a new point in; whether it is the best so far (the earlier one wins a tie, nan never)."""
        self.history.append(point)
        best = self.monitor.worst if self.best is None else self.best.value
        improved = self.last_is_best or self.monitor.better(point.value, best)
        if improved:
            self.best = point
        reference = self.monitor.worst if self._progress_at is None else self._progress_at.value
        min_delta = 0.0 if self.early_stopping is None else self.early_stopping.min_delta
        if self.monitor.better(point.value, reference, by=min_delta):
            self._progress_at = point
        return improved

    @property
    def should_stop(self) -> bool:
        """Whether the last point lies ``patience`` or more behind the last progress."""
        if self.early_stopping is None or not self.history:
            return False
        last, since = self.history[-1], self._progress_at or MonitorValue(0, 0, math.nan)
        waited = last.epoch - since.epoch if self.early_stopping.unit == "epochs" else last.step - since.step
        return waited >= self.early_stopping.patience
