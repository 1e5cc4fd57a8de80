"""The state of a run: its metrics so far, its best value, and what happens at the end of an epoch and of the run.

A run trains alone (a solo run) or as one member of a population, whose networks train together. ``RunCallback`` updates
the state of a solo run, and ``Member`` that of a member. So both kinds of runs save, stop, test and report in the same
way, and each can resume from a checkpoint of the other.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from digitlab.engine.metrics import Counts
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import finite_or_worst
from digitlab.results.result import CheckpointMetrics, Status, run_result
from digitlab.results.writer import Row, RunWriter
from digitlab.training.classifier import Classifier
from digitlab.training.early_stopping import BestTracker, MonitorValue
from digitlab.training.learning_hint import guess_loss, learning_hint


class RunState:
    """Collects the metrics of the run of ``classifier`` in ``folder``, and passes them to its writer.

    ``test`` says which checkpoint is tested. ``validating`` says whether there are validation images; without them the
    last epoch counts as the best. ``rows`` has one row of metrics for each finished epoch. ``metrics`` and
    ``epoch_seconds`` are the metrics and the training time of the current epoch so far. A resumed run gets ``rows`` and
    ``epoch_seconds`` from its checkpoint.

    In an epoch, the caller adds seconds, metrics and losses as it measures them. At the end of an epoch it calls
    ``add_training``, then ``add_validation`` (in this order, because the monitored metric may be one of training), then
    ``end_epoch`` and ``save_epoch``. At the end of the run it calls ``begin_test``, ``add_test`` and ``conclude``.
    """

    def __init__(
        self,
        *,
        classifier: Classifier,
        folder: RunFolder,
        best_tracker: BestTracker,
        test: Literal["best", "last", "none"],
        validating: bool,
        rows: list[Row],
        epoch_seconds: float = 0.0,
    ) -> None:
        self.classifier, self.folder, self.best_tracker = classifier, folder, best_tracker
        self.rows, self.epoch_seconds = rows, epoch_seconds
        self.metrics: dict[str, float] = {}
        # Only rank 0 (the first process of the run) gets a writer, and only when training is known to be possible,
        # because a writer changes files.
        self.writer: RunWriter | None = None
        self._test, self._validating = test, validating
        # The plan contains the position of the run, which advances with each update.
        self._plan = classifier.plan
        # The images on which this epoch has trained, for its images per second.
        self._images = 0
        # Whether the last validation found the best value so far. best.ckpt must then be written.
        self._improved = False
        # The content of the checkpoint that is being tested; None before and after the test.
        self._tested_checkpoint: dict[str, Any] | None = None
        # The metrics of that checkpoint, with those of the test; None before the test has ended.
        self._tested_metrics: CheckpointMetrics | None = None

    def write_to(self, writer: RunWriter) -> None:
        """From now on, write all metrics with ``writer``."""
        self.writer = writer

    # Inside an epoch --------------------------------------------------------------------------------------------------

    def add_seconds(self, seconds: float) -> None:
        """Add training time to the current epoch."""
        self.epoch_seconds += seconds

    def add_training(self, counts: Counts) -> None:
        """Add the metrics keyed ``train/…`` of the epoch, or of the part of it that was trained."""
        # The confusion matrix counts each image of the epoch once, also in an epoch that is cut short or was resumed.
        self._images = int(counts.confusion.sum())
        self.metrics |= {f"train/{name}": value for name, value in counts.metrics().items()}

    def add_validation(self, counts: Counts) -> None:
        """Add the metrics keyed ``val/…`` and find out whether the monitored one is the best so far."""
        val_metrics = {f"val/{name}": value for name, value in counts.metrics().items()}
        self.metrics |= val_metrics
        if self.writer is not None:
            self.writer.validation(val_metrics, step=self._plan.position.total_steps)
        # If the run monitors a metric keyed train/…, its value is known only at the end of an epoch. Then a validation
        # inside an epoch decides nothing.
        self._improved = self.best_tracker.monitor.metric in self.metrics and self._track()

    def save_improvement(self, save: Callable[[bool], None]) -> None:
        """Call ``save(True)``, which writes best.ckpt, if a validation inside an epoch found the best value so far."""
        # If early stopping ends the run now, ``save_epoch`` follows at once and saves the same state.
        if self._improved and not self.should_stop:
            save(True)

    def add_losses(self, losses: list[tuple[int, float]]) -> None:
        """Write the training losses of single mini-batches: pairs of (step from 1, loss)."""
        if self.writer is not None:
            self.writer.losses(losses)

    # The end of an epoch ----------------------------------------------------------------------------------------------

    @property
    def epoch_is_complete(self) -> bool:
        """Whether the run has trained on all mini-batches of the epoch."""
        return self._plan.position.step == self._plan.steps_per_epoch

    def end_epoch(self, take_counts: Callable[[], Counts], *, learning_rate: float) -> None:
        """Add the row of an epoch, or of its first part if the run ends inside it; ``save_epoch`` comes next.

        ``take_counts`` returns the training counts of the epoch. It is called only if ``add_training`` was not called,
        because early stopping, whose patience may count steps, ended the run inside the epoch.
        """
        if "train/loss" not in self.metrics:
            self.add_training(take_counts())
        position = self._plan.position
        row: Row = {"epoch": position.epoch + 1, "step": position.total_steps}
        # Sorted, because a resumed run adds the metrics in another order if it was stopped during an epoch.
        row |= dict(sorted(self.metrics.items()))
        row["lr"] = learning_rate
        row["train_seconds"] = self.epoch_seconds
        row["images_per_second"] = self._images / self.epoch_seconds
        self.rows.append(row)
        if self.writer is not None:
            self.writer.epoch(row)
        # Without validations, the ends of epochs are the only moments with a monitored value.
        if not self._validating:
            self._track()
        # If the run ends inside an epoch, the checkpoint that comes next belongs to that epoch, so it must contain the
        # seconds of the part that was trained.
        if self.epoch_is_complete:
            self.epoch_seconds = 0.0

    def save_epoch(self, save: Callable[[bool], None]) -> None:
        """Call ``save(True)`` for best.ckpt if it changed, and ``save(False)`` for last.ckpt."""
        # best.ckpt comes first: if last.ckpt says that the run has ended, best.ckpt must exist already.
        if self._improved or not self._validating:
            save(True)
        save(False)
        # The metrics are emptied only now, because both checkpoints contain those of the epoch that has ended.
        self._improved, self.metrics = False, {}

    @property
    def should_stop(self) -> bool:
        """Whether early stopping ends the run."""
        return self.best_tracker.should_stop

    @property
    def is_over(self) -> bool:
        """Whether the run has reached its last step, or early stopping ends it."""
        return self._plan.is_over or self.should_stop

    def _track(self) -> bool:
        """Add the current value of the monitored metric to its history; return whether it is the best so far."""
        position, metric = self._plan.position, self.best_tracker.monitor.metric
        return self.best_tracker.update(MonitorValue(position.epoch + 1, position.total_steps, self.metrics[metric]))

    # The end of the run -----------------------------------------------------------------------------------------------

    @property
    def monitored(self) -> float:
        """The monitored value of the checkpoint that would be tested now; the worst value if there is none.

        Halving, which stops the worse half of a population at chosen epochs, compares its members by it.
        """
        tracker = self.best_tracker
        point = tracker.history[-1] if self._test == "last" and tracker.history else tracker.best
        return tracker.monitor.worst if point is None else finite_or_worst(tracker.monitor.metric, point.value)

    def begin_test(self) -> bool:
        """Load the checkpoint that the key ``test`` names into the classifier; return whether it names one."""
        if self._test == "none":
            return False
        # The weights come from the file even for test=last, so that the result belongs to the file that users load.
        self._tested_checkpoint = read_checkpoint(self.folder.checkpoint(self._test))
        self.classifier.load_state_dict(self._tested_checkpoint["state_dict"])
        return True

    def add_test(self, metrics: dict[str, float], confusion: Tensor) -> None:
        """Add the results of the test that ``begin_test`` began.

        ``metrics`` are keyed ``test/…``; ``confusion`` is the confusion matrix, int64 (K, K) for K classes.
        """
        assert self._tested_checkpoint is not None
        assert self._test != "none"
        self._tested_metrics = CheckpointMetrics.of(self._tested_checkpoint, self._test, metrics)
        # This frees its weights and its optimizer state.
        self._tested_checkpoint = None
        if self.writer is not None:
            self.writer.confusion(confusion, self.classifier.facts.class_names)
            self.writer.predictions(torch.cat(self.classifier.test_scores))

    def conclude(
        self,
        status: Status,
        error: BaseException | None,
        *,
        device: torch.device,
        split_fingerprint: str,
        overrides: Sequence[str],
        threads: int | None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write ``result.json`` and close the files of the writer; return the content of ``result.json``.

        Without a test the metrics are those of the best checkpoint so far. ``split_fingerprint`` identifies the split
        into training and validation images. ``threads`` is the number of threads of the updates; ``more`` are further
        entries.
        """
        # The rows of a resumed run include those from before the stop, so the result describes the whole run.
        best, rows, metrics = self.best_tracker.best, self.rows, self._tested_metrics
        if metrics is None:
            # A run that failed before its first checkpoint has no metrics.
            metrics = CheckpointMetrics()
            if self.folder.best.exists():
                metrics = CheckpointMetrics.of(read_checkpoint(self.folder.best), "best")
        result = run_result(
            status=status, error=error, measured=metrics,
            best_epoch=None if best is None else best.epoch,
            epochs=len(rows),
            train_seconds=sum(row["train_seconds"] for row in rows),
            # The median, because another program can slow down single epochs.
            images_per_second=statistics.median([row["images_per_second"] for row in rows]) if rows else None,
            parameters=sum(parameter.numel() for parameter in self.classifier.network.parameters()),
            seed=self._plan.seed, split_fingerprint=split_fingerprint, overrides=overrides,
            device=device, threads=threads,
        ) | dict(more or {})  # fmt: skip
        if self.writer is not None:
            self.writer.result(result, step=self._plan.position.total_steps)
            self.writer.close()
        return result

    def learning_hint(self) -> str | None:
        """Return one line if the network has hardly learned anything, else None."""
        classes = len(self.classifier.facts.class_names)
        return learning_hint(self.rows, guess_loss=guess_loss(self.classifier.loss, classes), classes=classes)

    def monitored_in(self, result: Mapping[str, Any]) -> float:
        """Return the monitored value in what ``conclude`` returned; the worst value if it is nan or missing."""
        metric = self.best_tracker.monitor.metric
        return finite_or_worst(metric, result["metrics"].get(metric))
