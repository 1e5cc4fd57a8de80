"""The Lightning callbacks that update a solo run's ``RunState``: ``RunCallback`` and ``Saver``.

They measure the time of the training part of each epoch, save checkpoints, and stop the run when it should end.
``RunCallback`` is the first callback, so that the others find the epoch's row. ``Saver`` is the last one.
"""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.training.checkpointing import snapshot
from digitlab.training.classifier import Classifier
from digitlab.training.run_state import RunState


class RunCallback(Callback):
    """Updates ``record`` for a solo run. Every process has one, so that all stop at the same moment.

    Inside an epoch it saves a checkpoint when the last one is ``save_every_seconds`` old (None: never).
    """

    def __init__(self, *, record: RunState, stop_signal: StopSignal, save_every_seconds: float | None) -> None:
        self.record, self.stop_signal, self._save_every_seconds = record, stop_signal, save_every_seconds
        self._saved_at = time.monotonic()
        self._clock_started_at: float | None = None
        self._epoch_over = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_over = False
        self._start_clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Chunk, batch_idx: int
    ) -> None:
        classifier = _classifier(pl_module)
        # As in a population, compiling is no part of the training time. The clock includes it at this point.
        self.record.add_seconds(-classifier.runner.take_compile_seconds())
        whole = classifier.position.step == batch.step + len(batch.indices)
        # For Lightning a chunk is one batch. The loader ends a chunk where a validation is due: this makes Lightning
        # validate after such a chunk, and only then.
        trainer.val_check_batch = 1 if whole and batch.validate else float("inf")
        if whole and batch.last:
            self._stop_clock()
            self._epoch_over = self.record.epoch_is_complete
            self.record.add_training(classifier.take_train_counts())
            trainer.should_stop |= classifier.position.total_steps == batch.plan.max_steps
        elif not (whole and batch.validate):
            self._pause(trainer, classifier)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        self.record.add_validation(classifier.evaluation)
        trainer.should_stop |= self.record.should_stop
        if self._epoch_over or trainer.should_stop:
            return
        self.record.save_improvement(lambda best: self._save(trainer, classifier, best=best))
        self._pause(trainer, classifier)
        self._start_clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        self.record.end_epoch(classifier.take_train_counts, learning_rate=classifier.learning_rate)
        if self._epoch_over:
            classifier.position.next_epoch()

    def save_epoch(self, trainer: Trainer, classifier: Classifier) -> None:
        """Save the checkpoints of a finished epoch, then stop if a signal has arrived."""
        self.record.save_epoch(lambda best: self._save(trainer, classifier, best=best))
        if classifier.position.epoch < (trainer.max_epochs or 0) and not trainer.should_stop:
            self.stop_signal.obey(trainer)

    def _pause(self, trainer: Trainer, classifier: Classifier) -> None:
        """Between two chunks: stop if a signal has arrived, save if the last checkpoint is too old."""

        def save() -> None:
            self._stop_clock()
            self._save(trainer, classifier, best=False)

        self.stop_signal.obey(trainer, save=save)
        if self._save_every_seconds is not None:
            old = time.monotonic() - self._saved_at >= self._save_every_seconds
            if trainer.strategy.reduce_boolean_decision(old, all=False):
                save()
                self._start_clock()

    def _save(self, trainer: Trainer, classifier: Classifier, *, best: bool) -> None:
        self.record.add_losses(classifier.take_logged_losses())
        train_counts = classifier.train_counts_of_processes()
        self._saved_at = time.monotonic()
        if self.record.writer is None:
            return
        content = snapshot(
            classifier, trainer.optimizers[0].state_dict(), self.record, position=classifier.position,
            train_counts=train_counts,
        )  # fmt: skip
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_save_checkpoint(trainer, classifier, content)
        self.record.writer.checkpoint(content, best=best)

    def _start_clock(self) -> None:
        self._clock_started_at = time.perf_counter()

    def _stop_clock(self) -> None:
        if self._clock_started_at is not None:
            self.record.add_seconds(time.perf_counter() - self._clock_started_at)
            self._clock_started_at = None


class Saver(Callback):
    """Saves the checkpoints of an epoch, as the last callback: by then the others have written their files."""

    def __init__(self, run_callback: RunCallback) -> None:
        self._run_callback = run_callback

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run_callback.save_epoch(trainer, _classifier(pl_module))


def _classifier(module: LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module
