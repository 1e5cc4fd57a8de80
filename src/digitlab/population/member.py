"""One run of a population: its folder, its state, and its classifier, whose weights are views of the stacked ones."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from digitlab.core.errors import RunError
from digitlab.core.logging import log_to
from digitlab.data.chunks import Position
from digitlab.data.module import ImageData
from digitlab.engine.metrics import Counts
from digitlab.figures.events import send_epoch, send_samples, send_test, send_weights
from digitlab.population.cohort import Cohort
from digitlab.population.halving import Setting, setting_of
from digitlab.population.job import Job
from digitlab.results.checkpoint import read_checkpoint, write_checkpoint
from digitlab.results.outcome import finite_or_worst
from digitlab.results.result import CheckpointMetrics, Status
from digitlab.results.writer import RunWriter
from digitlab.training.checkpointing import restore, snapshot
from digitlab.training.evaluation import measure_alone
from digitlab.training.setup import (
    initial_classifier,
    new_record,
    result_fields,
    run_writer,
    set_length,
    summarise,
)

# Returns the "state" of a torch.optim optimizer. A function, because only checkpoints need it and it copies tensors.
State = Callable[[], dict[int, dict[str, Tensor]]]


class Member:
    """Does for one run of a population what Lightning's trainer and ``RunCallback`` do for a solo run.

    ``outcome`` is None until the run ends; then it is the monitored value, or the error that ended the run.
    ``halved_after_epoch`` is set if halving ends the run.
    """

    def __init__(self, job: Job, data: ImageData, *, steps_per_epoch: int, cohort: Cohort) -> None:
        self.job, self.data, self._cohort = job, data, cohort
        self.classifier = initial_classifier(job.experiment, data)
        set_length(self.classifier, job.experiment, steps_per_epoch)
        checkpoint = job.checkpoint
        # Restores weights, counts and position. The optimizer's state goes into the stacked tensors later.
        history = [] if checkpoint is None else restore(checkpoint, self.classifier, path=job.folder.last)
        # A member has no torch.optim optimizer. Its checkpoints contain the groups of the one it would have alone.
        self._param_groups = self.classifier.update.build(self.classifier.network).state_dict()["param_groups"]
        self.outcome: float | Exception | None = None
        self.learning_rate = 0.0
        self._images = 0
        self._improved = False
        self._measured: CheckpointMetrics | None = None
        self.halved_after_epoch = job.halved_after_epoch
        self.record = new_record(job.experiment, data, history=history, checkpoint=checkpoint)

    def begin(self, samples: npt.NDArray[np.uint8]) -> None:
        """Open the run's files; ``samples`` is a picture of training images, uint8 (rows, columns, RGBA)."""
        job = self.job
        # The result of an earlier attempt is not valid any more.
        job.folder.result.unlink(missing_ok=True)
        if job.rewound:
            _rewind(job)
        with log_to(job.folder.log):
            self.record.writer = run_writer(job.config, job.folder, checkpoint=job.checkpoint)
            summarise(self.classifier, self.record.writer)
        if job.start.total_steps == 0:
            send_samples(self.writer, samples)

    @property
    def score(self) -> tuple[Setting, float]:
        """What halving compares: the run's setting, and its monitored value so far, the worst one if it failed.

        The value is that of the checkpoint that the run would be tested on, as in the result of a run that has ended.
        """
        tracker, last_is_tested = self.record.best_tracker, self.job.experiment.options.test == "last"
        tested = tracker.history[-1] if last_is_tested and tracker.history else tracker.best
        if tested is None or isinstance(self.outcome, Exception):
            return setting_of(self.job.overrides), tracker.monitor.worst
        return setting_of(self.job.overrides), finite_or_worst(tracker.monitor.metric, tested.value)

    @property
    def writer(self) -> RunWriter:
        assert self.record.writer is not None
        return self.record.writer

    def use_tensors(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], averages: Sequence[Tensor]) -> None:
        """Make the classifier's tensors views of these, each a row of a stacked tensor, so that updates change both."""
        _make_views(self.classifier.network, parameters, buffers)
        if self.classifier.average is not None:
            _make_views(self.classifier.average, averages, buffers)

    def count(self, confusion: Tensor, losses: Sequence[float], sizes: Sequence[int], *, last_step: int) -> None:
        """Add a chunk's confusion matrix, int64 (K, K) on the host, and losses of mini-batches up to ``last_step``."""
        # Training metrics are counted by the classifier, as in a solo run, so that checkpoints look the same.
        own, every = self.classifier.train_counts, self.classifier.log_every_steps
        own.confusion = own.confusion + confusion
        own.add_losses(losses, sizes)
        steps = range(last_step - len(losses) + 1, last_step + 1)
        logged = [(step, loss) for step, loss in zip(steps, losses, strict=True) if step % every == 0]
        self.classifier.logged_losses += logged

    def take_train_metrics(self) -> None:
        """Turn the counts of the epoch into training metrics, and start new counts."""
        counts, self.classifier.train_counts = (
            self.classifier.train_counts,
            Counts.zeros(len(self.classifier.facts.class_names), torch.device("cpu")),
        )
        # Throughput counts images of the epoch that were really trained on.
        self._images = int(counts.confusion.sum())
        self.record.metrics |= {f"train/{name}": value for name, value in counts.metrics().items()}

    def validated(self, counts: Counts, position: Position, state: State, *, last: bool) -> None:
        """Record a validation and save an improvement, unless it is the ``last``: the epoch's end saves anyway."""
        with log_to(self.job.folder.log):
            measured = {f"val/{name}": value for name, value in counts.metrics().items()}
            self._improved = self.record.add_validation(measured, position)
            if self._improved and not last and not self.record.best_tracker.should_stop:
                self.save(position, state, best=True)

    def end_epoch(self, position: Position, *, epoch_over: bool) -> None:
        """Record the end of an epoch, or of a run that ends inside one; ``save_epoch`` comes next."""
        if "train/loss" not in self.record.metrics:
            self.take_train_metrics()
        with log_to(self.job.folder.log):
            self.record.add_epoch(position, images=self._images, learning_rate=self.learning_rate)
        if self.job.config.figures.each_epoch:
            self.classifier.position = replace(position)
            send_epoch(self.writer, self.classifier, self.data, self.record)
        if epoch_over:
            self.record.epoch_seconds = 0.0

    def save_epoch(self, position: Position, state: State, *, epoch_over: bool) -> None:
        """Write the checkpoints after an epoch. Several members do this at the same time, in threads."""
        if epoch_over:
            # A copy: the population's own position moves on only when all members are saved.
            position = replace(position)
            position.next_epoch()
        if self._improved or not self.record.validating:
            self.save(position, state, best=True)
        self.save(position, state, best=False)
        self._improved, self.record.metrics = False, {}

    def is_over(self, position: Position) -> bool:
        """Whether the run has reached its last step, or early stopping or halving ends it."""
        over = position.total_steps >= self.classifier.total_steps
        return over or self.record.best_tracker.should_stop or self.halved_after_epoch is not None

    def save(self, position: Position, state: State, *, best: bool) -> None:
        """Write a checkpoint in the format of a solo run, so that the run can also resume alone."""
        self.record.add_losses(self.classifier.take_logged_losses())
        self.classifier.position = replace(position)
        # The stored learning rate is the last one used, which is what a solo run stores.
        groups = [{**group, "lr": self.learning_rate} for group in self._param_groups]
        optimizer_state = {"state": state(), "param_groups": groups}
        counts = [self.classifier.train_counts]
        content = snapshot(self.classifier, optimizer_state, self.record, train_counts=counts)
        content |= self._cohort.checkpoint_fields()
        if self.halved_after_epoch is not None:
            content["halved_after_epoch"] = self.halved_after_epoch
        self.writer.checkpoint(content, best=best)

    def stop(self, position: Position, state: State, error: Exception) -> None:
        """Save the run after a signal and close its files."""
        self.save(position, state, best=False)
        self._close("stopped", error)

    def abandon(self, error: Exception | None) -> None:
        """Close the run's files after ``error`` ended its population; the saved checkpoints stay.

        Without an error the run continues in another population, and its result is not written.
        """
        # No file was opened: the population failed before its first chunk.
        if self.record.writer is None:
            return
        # The disk may be full. Then the error that ended the population is the one to report, not this one.
        with suppress(OSError, MemoryError, RunError):
            if error is not None:
                self._close("failed", error)
        with suppress(OSError, MemoryError):
            self.record.writer.close()

    def fail(self, error: Exception) -> None:
        """End this run with ``error``; the other members continue."""
        self._leave()
        self._cohort.failed_settings[self.job.folder.path.name] = list(setting_of(self.job.overrides))
        self.outcome = error
        self._close("failed", error)

    def finish(self) -> None:
        """The test, as the configuration asks for it, and the result, which tells if halving ended the run."""
        self._leave()
        try:
            if not self.job.config.figures.each_epoch:
                send_weights(self.writer, self.classifier)
            self._test()
        except Exception as error:
            self.fail(error)
        else:
            metrics, metric = self._close("finished", None)["metrics"], self.record.best_tracker.monitor.metric
            self.outcome = finite_or_worst(metric, metrics.get(metric))

    def _leave(self) -> None:
        """Copy the weights out of the stacked tensors, so that these can be freed."""
        # ``tensor.data = ...`` keeps the parameter objects, which the figures and the optimizer's groups refer to.
        for module in (self.classifier.network, self.classifier.average):
            for tensor in [] if module is None else [*module.parameters(), *module.buffers()]:
                tensor.data = tensor.data.clone()

    def _test(self) -> None:
        which, folder = self.job.experiment.options.test, self.job.folder
        if which == "none":
            return
        checkpoint = read_checkpoint(folder.best if which == "best" else folder.last)
        self.classifier.load_state_dict(checkpoint["state_dict"])
        metrics, confusion = measure_alone(self.classifier, self.data)
        self._measured = CheckpointMetrics.of(checkpoint, which, metrics)
        self.writer.confusion(confusion, self.classifier.facts.class_names)
        self.writer.predictions(torch.cat(self.classifier.test_scores))
        send_test(self.writer, self.classifier)

    def _close(self, status: Status, error: Exception | None) -> dict[str, Any]:
        result = result_fields(
            status=status, error=error, record=self.record, classifier=self.classifier, folder=self.job.folder,
            split_fingerprint=self.data.split_fingerprint, overrides=self.job.overrides,
            measured=self._measured, device=self.classifier.device,
        )  # fmt: skip
        if status == "finished" and self.halved_after_epoch is not None:
            result["halved_after_epoch"] = self.halved_after_epoch
        with log_to(self.job.folder.log):
            self.writer.result(result, step=self.classifier.position.total_steps)
            self.writer.close()
        return result


def _rewind(job: Job) -> None:
    """Let the folder look as it did when ``job.checkpoint`` was the newest: a later kill must not find newer ones."""
    # Both files are replaced or removed, so that no newer checkpoint remains.
    for path in (job.folder.last, job.folder.previous):
        if job.checkpoint is None:
            path.unlink(missing_ok=True)
        else:
            write_checkpoint(path, job.checkpoint)


def _make_views(module: nn.Module, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
    own = [*module.parameters(), *module.buffers()]
    # Assigning ``data`` lets the parameter objects live on with the memory of the stacked row.
    for tensor, row in zip(own, (*parameters, *buffers), strict=True):
        tensor.data = row
