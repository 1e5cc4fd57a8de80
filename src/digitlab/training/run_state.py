"""The state of a run while it trains: the metrics of the current epoch, the rows of past epochs, the best moment.

It knows no Trainer: a callback updates it for a solo run, and a population updates one for each of its members.
"""

from collections.abc import Mapping

from digitlab.data.chunks import Position
from digitlab.results.writer import Row, RunWriter
from digitlab.training.early_stopping import BestTracker, MonitorValue


class RunState:
    """Collects the metrics of one run and passes them to its ``writer``, which only the first process has.

    ``validating`` says whether there are validation images; without them the last epoch counts as the best. ``rows``
    describe the finished epochs. ``epoch_seconds`` is the training time of the current epoch so far.
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
        """Add metrics keyed ``val/…``; return whether this is the best moment so far."""
        self.metrics |= measured
        if self.writer is not None:
            self.writer.validation(measured, step=position.total_steps)
        # Metrics keyed train/… are known only at the end of an epoch, not at a validation inside it.
        return self.best_tracker.monitor.metric in self.metrics and self.best_tracker.update(self._point(position))

    def add_epoch(self, position: Position, *, images: int, learning_rate: float) -> None:
        """Add the row of an epoch. ``images`` is the number of images that it trained on, which may be cut short."""
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
        """Write the training losses of single mini-batches: pairs of (step, loss)."""
        if self.writer is not None:
            self.writer.losses(losses)

    def _point(self, position: Position) -> MonitorValue:
        return MonitorValue(position.epoch + 1, position.total_steps, self.metrics[self.best_tracker.monitor.metric])
