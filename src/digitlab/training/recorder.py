"""The one callback between Lightning's Trainer and a run's ``Record``.

It measures the time of each epoch's training part, has checkpoints saved, and stops the run where it should end.
"""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from digitlab.data.chunks import Chunk
from digitlab.training.classifier import Classifier
from digitlab.training.interrupt import StopSignal
from digitlab.training.record import Record
from digitlab.training.snapshot import snapshot


class Recorder(Callback):
    """Drives ``record`` for a solo run; every process has one, so that all stop at the same moment."""

    def __init__(self, *, record: Record, stop_signal: StopSignal) -> None:
        self.record, self.stop_signal = record, stop_signal
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
            self.record.metrics = self._take_train_metrics(classifier)
            trainer.should_stop |= classifier.position.total_steps == batch.plan.max_steps
        elif not (whole and batch.validate):
            self._obey_signal(trainer, classifier)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        measured = {f"val/{name}": value for name, value in classifier.evaluation.metrics().items()}
        if self.record.add_validation(measured, classifier.position):
            self._save(trainer, classifier, best=True)
        trainer.should_stop |= self.record.selection.exhausted
        if not self._epoch_over and not trainer.should_stop:
            self._obey_signal(trainer, classifier)
            self._start_clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        record = self.record
        if "train/loss" not in record.metrics:
            # Stopped inside the epoch, by patience in steps: the row says what was trained of it.
            record.metrics |= self._take_train_metrics(classifier)
        record.add_epoch(
            classifier.position, images=self._images, learning_rate=classifier.learning_rate,
            losses=classifier.take_logged_losses(),
        )  # fmt: skip
        if self._epoch_over:
            classifier.position.next_epoch()
            record.epoch_seconds = 0.0
        self._save(trainer, classifier, best=False)
        if not record.validating:
            self._save(trainer, classifier, best=True)
        record.metrics = {}
        if classifier.position.epoch < (trainer.max_epochs or 0) and not trainer.should_stop:
            self._obey_signal(trainer, classifier)

    def _take_train_metrics(self, classifier: Classifier) -> dict[str, float]:
        counts = classifier.take_train_counts()
        self._images = int(counts.confusion.sum())
        return {f"train/{name}": value for name, value in counts.metrics().items()}

    def _save(self, trainer: Trainer, classifier: Classifier, *, best: bool) -> None:
        if self.record.writer is not None:
            state = trainer.optimizers[0].state_dict()
            self.record.writer.checkpoint(snapshot(classifier, state, self.record), best=best)

    def _obey_signal(self, trainer: Trainer, classifier: Classifier) -> None:
        def save() -> None:
            self._stop_clock()
            self.record.add_losses(classifier.take_logged_losses())
            # The sum over all processes, from which the first of a resumed run goes on.
            classifier.train_counts = classifier.take_train_counts()
            self._save(trainer, classifier, best=False)

        self.stop_signal.obey(trainer, save=save)

    def _start_clock(self) -> None:
        self._clock_started_at = time.perf_counter()

    def _stop_clock(self) -> None:
        if self._clock_started_at is not None:
            self.record.epoch_seconds += time.perf_counter() - self._clock_started_at
            self._clock_started_at = None


def _classifier(module: LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module
