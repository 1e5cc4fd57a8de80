"""The Lightning callbacks that update the ``RunState`` of a solo run (a run that trains alone, not in a population).

``RunCallback`` and ``Saver`` measure the training time of each epoch, save checkpoints, and stop the run when it should
end. ``RunCallback`` is the first callback of the Trainer, so that the others find the metrics of the epoch in
``run_state.rows``. ``Saver`` is the last one. A chunk is several mini-batches, which are one batch for Lightning.
"""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.training.callback_states import add_callbacks, restore_callbacks
from digitlab.training.checkpointing import snapshot
from digitlab.training.classifier import Classifier
from digitlab.training.run_state import RunState


class RunCallback(Callback):
    """Updates ``run_state`` for a solo run. Under DDP every process has one, so that all stop at the same moment.

    Inside an epoch it saves a checkpoint when the last one is ``save_every_seconds`` old (None: never). If the run is
    resumed, it gives the states in ``checkpoint`` back to the users' callbacks.
    """

    def __init__(
        self,
        *,
        run_state: RunState,
        stop_signal: StopSignal,
        save_every_seconds: float | None,
        checkpoint: dict[str, Any] | None,
    ) -> None:
        self.run_state, self.stop_signal, self._save_every_seconds = run_state, stop_signal, save_every_seconds
        self._checkpoint = checkpoint
        self._saved_at = time.monotonic()
        # When the clock of the training time was started; None while it is stopped.
        self._clock_started_at: float | None = None
        # Whether the run has trained on all mini-batches of the epoch. It is False if the run ends inside the epoch.
        self._epoch_over = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning would restore at this moment, too: after ``setup`` of all callbacks, before any ``on_train_start``.
        if self._checkpoint is not None:
            restore_callbacks(trainer, pl_module, self._checkpoint)
        self._checkpoint = None  # its weights and optimizer state would occupy memory for the whole run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # ``save_every_seconds`` counts from here: before, there is nothing new to save.
        self._saved_at = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_over = False
        self._start_clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Chunk, batch_idx: int
    ) -> None:
        classifier = _classifier(pl_module)
        # The running clock includes the time for compiling. Neither a run nor a population counts it as training.
        self.run_state.add_seconds(-classifier.runner.take_compile_seconds())
        # After a signal, a chunk ends before all its mini-batches are done. A resumed run trains on the others.
        complete = classifier.position.step == batch.step + len(batch.indices)
        # The loader ends a chunk where a validation is due. Lightning, for which a chunk is one batch, validates when
        # the number of batches is a multiple of this value: 1 means after this chunk, infinity means not now.
        trainer.val_check_batch = 1 if complete and batch.validate else float("inf")
        if complete and batch.last:
            self._stop_clock()
            self._epoch_over = self.run_state.epoch_is_complete
            self.run_state.add_training(classifier.take_train_counts())
            # Lightning is given only max_epochs, so this is where a run ends at max_steps.
            trainer.should_stop |= classifier.position.total_steps == batch.plan.max_steps
        # If a validation follows, ``on_validation_end`` stops or saves after it. A run that was saved here would resume
        # after this chunk and skip the validation.
        elif not (complete and batch.validate):
            self._stop_or_save(trainer, classifier)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        self.run_state.add_validation(classifier.evaluation)
        trainer.should_stop |= self.run_state.should_stop
        # At the end of an epoch or of the run, ``on_train_epoch_end`` follows and saves.
        if self._epoch_over or trainer.should_stop:
            return
        self.run_state.save_improvement(lambda best: self._save(trainer, classifier, best=best))
        self._stop_or_save(trainer, classifier)
        self._start_clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = _classifier(pl_module)
        self.run_state.end_epoch(classifier.take_train_counts, learning_rate=classifier.learning_rate)
        # ``end_epoch`` has written the row of metrics with the position of the finished epoch. Only now may the
        # position move on: the checkpoints that ``Saver`` writes next contain the start of the next epoch.
        if self._epoch_over:
            classifier.position.next_epoch()

    def save_epoch(self, trainer: Trainer, classifier: Classifier) -> None:
        """Save the checkpoints of a finished epoch, then stop if a signal has arrived."""
        self.run_state.save_epoch(lambda best: self._save(trainer, classifier, best=best))
        # After the last epoch the run does not stop here, so that the figures are drawn. Then ``Run`` obeys the signal,
        # before the test. ``obey`` raises ``Interrupted``.
        if classifier.position.epoch < (trainer.max_epochs or 0) and not trainer.should_stop:
            self.stop_signal.obey(trainer)

    def _stop_or_save(self, trainer: Trainer, classifier: Classifier) -> None:
        """Between two chunks: stop if a signal has arrived, save if the last checkpoint is too old."""

        def save() -> None:
            self._stop_clock()
            self._save(trainer, classifier, best=False)

        self.stop_signal.obey(trainer, save=save)
        if self._save_every_seconds is not None:
            is_due = time.monotonic() - self._saved_at >= self._save_every_seconds
            # The processes decide together, because all of them must take part in saving.
            if trainer.strategy.reduce_boolean_decision(is_due, all=False):
                save()
                self._start_clock()

    def _save(self, trainer: Trainer, classifier: Classifier, *, best: bool) -> None:
        """Write best.ckpt or last.ckpt, after the losses of the mini-batches before it."""
        self.run_state.add_losses(classifier.take_logged_losses())
        # Every process must reach this call, which collects the counts of all. Only rank 0 writes the checkpoint.
        train_counts = classifier.train_counts_of_processes()
        self._saved_at = time.monotonic()
        if self.run_state.writer is None:
            return
        content = snapshot(
            classifier, trainer.optimizers[0].state_dict(), self.run_state, position=classifier.position,
            train_counts=train_counts,
        )  # fmt: skip
        add_callbacks(trainer, classifier, content)
        self.run_state.writer.checkpoint(content, best=best)

    def _start_clock(self) -> None:
        """Begin to count training time."""
        self._clock_started_at = time.perf_counter()

    def _stop_clock(self) -> None:
        """Add the time since ``_start_clock`` to the epoch, if the clock is running."""
        if self._clock_started_at is not None:
            self.run_state.add_seconds(time.perf_counter() - self._clock_started_at)
            self._clock_started_at = None


class Saver(Callback):
    """Saves the checkpoints of an epoch. It is the last callback, so the others have written their files before.

    If a run is killed after it was saved, it resumes with the next epoch, so these files would never be written.
    """

    def __init__(self, run_callback: RunCallback) -> None:
        self._run_callback = run_callback

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run_callback.save_epoch(trainer, _classifier(pl_module))


def _classifier(module: LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module
