"""What a run has come to while it trains: the metrics of its epoch, its rows, its best moment.

It knows no Trainer: one callback drives it for a solo run, and a population drives one for each of its members.
"""

from collections.abc import Mapping

from digitlab.data.chunks import Position
from digitlab.results.writer import Row, RunWriter
from digitlab.training.early_stopping import BestTracker, MonitorValue


class RunState:
    """The bookkeeping of one run; only the first process of a run has a ``writer``.

    ``validating`` is whether there are validation images: without them the last epoch counts as the best. ``rows`` are
    those of the epochs done, ``epoch_seconds`` the training time of the epoch under way.
    """

    def __init__(
        self,
        *,
        writer: RunWriter | None,
        best_tracker: BestTracker,
        validating: bool,
        rows: list[Row],
        epoch_seconds: float = 0.0,
    ) -> None:
        self.writer, self.best_tracker, self.validating = writer, best_tracker, validating
        self.rows = rows
        self.epoch_seconds = epoch_seconds
        self.metrics: dict[str, float] = {}

    def add_validation(self, measured: Mapping[str, float], position: Position) -> bool:
        """Take metrics keyed ``val/…`` in; whether this is the best moment so far."""
        self.metrics |= measured
        if self.writer is not None:
            self.writer.validation(measured, step=position.total_steps)
        # A metric of the training passes is known at the end of an epoch, not at a validation inside it.
        return self.best_tracker.monitor.metric in self.metrics and self.best_tracker.update(self._point(position))

    def add_epoch(self, position: Position, *, images: int, learning_rate: float) -> None:
        """Add the row of an epoch, or of the part of it that trained on ``images``."""
        row: Row = {"epoch": position.epoch + 1, "step": position.total_steps}
        row |= dict(sorted(self.metrics.items()))
        row["lr"] = learning_rate
        row["train_seconds"] = self.epoch_seconds
        row["images_per_second"] = images / self.epoch_seconds
        self.rows.append(row)
        if self.writer is not None:
            self.writer.epoch(row)
        if not self.validating:
            self.best_tracker.update(self._point(position))

    def add_losses(self, losses: list[tuple[int, float]]) -> None:
        """Have the training losses of single mini-batches written: pairs of (step, loss)."""
        if self.writer is not None:
            self.writer.losses(losses)

    def _point(self, position: Position) -> MonitorValue:
        return MonitorValue(position.epoch + 1, position.total_steps, self.metrics[self.best_tracker.monitor.metric])
