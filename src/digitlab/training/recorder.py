"""The one callback between Lightning's Trainer and a run's ``RunWriter`` and ``Selection``.

It measures the time of each epoch's training part, decides what is best and when to stop, and has the writer write.
"""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from digitlab.data.chunks import Chunk
from digitlab.results.writer import Row, RunWriter
from digitlab.training.classifier import Classifier
from digitlab.training.interrupt import StopSignal
from digitlab.training.selection import Point, Selection
from digitlab.training.snapshot import snapshot


class Recorder(Callback):
    """Drives ``writer`` and ``selection`` for a solo run.

    Every process has one, so that all stop at the same moment; only the first has a writer. ``validating`` is whether
    there are validation images: without them the last epoch counts as the best. ``rows`` are those of the epochs done.
    """

    def __init__(
        self,
        *,
        writer: RunWriter | None,
        selection: Selection,
        stop_signal: StopSignal,
        validating: bool,
        rows: list[Row],
        epoch_seconds: float = 0.0,
    ) -> None:
        self.writer, self.selection, self.stop_signal, self.validating = writer, selection, stop_signal, validating
        self.rows = rows
        self.epoch_seconds = epoch_seconds
        self.metrics: dict[str, float] = {}
        self._images = 0
        self._clock_started_at: float | None = None
        self._epoch_over = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_over = False
        self._start_clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Chunk, batch_idx: int
    ) -> None:
        classifier = _classifier(pl_module)
        whole = classifier.position.step == batch.step + len(batch.indices)
        # Lightning validates after every so many batches, that is our chunks; a chunk ends where a validation is due.
        trainer.val_check_batch = 1 if whole and batch.validate else float("inf")
        if whole and batch.last:
            self._stop_clock()
            self._epoch_over = classifier.position.step == classifier.steps_per_epoch
            self.metrics = self._take_train_metrics(classifier)
            trainer.should_stop |= classifier.position.total_steps == batch.plan.max_steps
        elif not (whole and batch.validate):
            self._obey_signal(trainer, classifier)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        measured = {f"val/{name}": value for name, value in classifier.evaluation.metrics().items()}
        self.metrics |= measured
        if self.writer is not None:
            self.writer.validation(measured, step=classifier.position.total_steps)
        self._select(trainer, classifier)
        if not self._epoch_over and not trainer.should_stop:
            self._obey_signal(trainer, classifier)
            self._start_clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        if "train/loss" not in self.metrics:
            # Stopped inside the epoch, by patience in steps: the row says what was trained of it.
            self.metrics |= self._take_train_metrics(classifier)
        self._add_row(classifier)
        if not self.validating:
            self.selection.update(self._point(classifier))
        if self._epoch_over:
            classifier.position.next_epoch()
            self.epoch_seconds = 0.0
        self._save(trainer, classifier, best=False)
        if not self.validating:
            self._save(trainer, classifier, best=True)
        self.metrics = {}
        if classifier.position.epoch < (trainer.max_epochs or 0) and not trainer.should_stop:
            self._obey_signal(trainer, classifier)

    def _take_train_metrics(self, classifier: Classifier) -> dict[str, float]:
        counts = classifier.take_train_counts()
        self._images = int(counts.confusion.sum())
        return {f"train/{name}": value for name, value in counts.metrics().items()}

    def _select(self, trainer: Trainer, classifier: Classifier) -> None:
        metric = self.selection.monitor.metric
        if metric not in self.metrics:
            # A metric of the training passes is known at the end of an epoch, not at a validation inside it.
            return
        if self.selection.update(self._point(classifier)):
            self._save(trainer, classifier, best=True)
        if self.selection.exhausted:
            trainer.should_stop = True

    def _point(self, classifier: Classifier) -> Point:
        position = classifier.position
        return Point(position.epoch + 1, position.total_steps, self.metrics[self.selection.monitor.metric])

    def _add_row(self, classifier: Classifier) -> None:
        row: Row = {"epoch": classifier.position.epoch + 1, "step": classifier.position.total_steps}
        row |= dict(sorted(self.metrics.items()))
        row["lr"] = classifier.learning_rate
        row["train_seconds"] = self.epoch_seconds
        row["images_per_second"] = self._images / self.epoch_seconds
        self.rows.append(row)
        self._write_losses(classifier)
        if self.writer is not None:
            self.writer.epoch(row)

    def _write_losses(self, classifier: Classifier) -> None:
        losses, classifier.logged_losses = classifier.logged_losses, []
        if self.writer is not None:
            self.writer.losses(losses)

    def _save(self, trainer: Trainer, classifier: Classifier, *, best: bool) -> None:
        if self.writer is not None:
            self.writer.checkpoint(snapshot(trainer, classifier, self), best=best)

    def _obey_signal(self, trainer: Trainer, classifier: Classifier) -> None:
        def save() -> None:
            self._stop_clock()
            self._write_losses(classifier)
            self._save(trainer, classifier, best=False)

        self.stop_signal.obey(trainer, save=save)

    def _start_clock(self) -> None:
        self._clock_started_at = time.perf_counter()

    def _stop_clock(self) -> None:
        if self._clock_started_at is not None:
            self.epoch_seconds += time.perf_counter() - self._clock_started_at
            self._clock_started_at = None


def _classifier(module: LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module
