"""One run of a population: its folder, its classifier, whose weights are a row of the population's, and its record."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from digitlab.core.errors import RunError
from digitlab.core.logging import log_to
from digitlab.data.chunks import Position
from digitlab.data.module import ImageData
from digitlab.engine.metrics import Counts
from digitlab.figures.events import send_epoch, send_samples, send_test, send_weights
from digitlab.population.cohort import Cohort
from digitlab.population.halving import Setting, setting_of
from digitlab.results.checkpoint import read_checkpoint, write_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, finite_or_worst
from digitlab.results.result import CheckpointMetrics, Status
from digitlab.results.writer import RunWriter
from digitlab.training.checkpointing import restore, snapshot
from digitlab.training.evaluation import measure_alone
from digitlab.training.experiment import Experiment
from digitlab.training.setup import (
    initial_classifier,
    new_record,
    result_fields,
    run_writer,
    set_length,
    summarise,
)

# Makes the "state" of a torch optimiser: only when a checkpoint is written is it needed.
State = Callable[[], dict[int, dict[str, Tensor]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run that is to be trained: its checked configuration, its folder, and what was typed for it.

    ``checkpoint`` is where it goes on, None at the beginning; ``rewound``: it is not the last one that was written.
    """

    number: int
    config: DictConfig
    experiment: Experiment
    folder: RunFolder
    overrides: Sequence[str]
    checkpoint: dict[str, Any] | None = None
    rewound: bool = False

    @property
    def cohort_members(self) -> tuple[str, ...]:
        """The folders' names of the population that it goes on in; none where it is to begin, or trained alone."""
        return () if self.checkpoint is None else tuple(self.checkpoint.get("members", ()))

    @property
    def start(self) -> Position:
        return Position() if self.checkpoint is None else Position(**self.checkpoint["position"])

    @property
    def seed(self) -> int:
        return self.experiment.options.seed

    @property
    def failed(self) -> bool:
        """Whether the last attempt failed."""
        try:
            return bool(self.folder.read_result()["status"] == "failed")
        except UNREADABLE:
            return False

    @property
    def halving(self) -> bool:
        """Whether its sweep ends the worse half of a population early."""
        return bool(OmegaConf.select(self.config, "sweep.halving"))

    @property
    def halved_after_epoch(self) -> int | None:
        """After which epoch halving has ended it, where it was killed before it could say so."""
        return self.checkpoint.get("halved_after_epoch") if self.halving and self.checkpoint is not None else None


class Member:
    """Does for one run what Lightning's trainer and the recorder do for a solo run.

    ``outcome`` is the best monitored value of a run that has come to its end, or the error that ended it;
    ``halved_after_epoch`` is set where halving ends it.
    """

    def __init__(self, job: Job, data: ImageData, *, steps_per_epoch: int, cohort: Cohort) -> None:
        self.job, self.data, self._cohort = job, data, cohort
        self.classifier = initial_classifier(job.experiment, data)
        set_length(self.classifier, job.experiment, steps_per_epoch)
        checkpoint = job.checkpoint
        history = [] if checkpoint is None else restore(checkpoint, self.classifier, path=job.folder.last)
        self._param_groups = self.classifier.update.build(self.classifier.network).state_dict()["param_groups"]
        self.outcome: float | Exception | None = None
        self.learning_rate = 0.0
        self._images = 0
        self._improved = False
        self._measured: CheckpointMetrics | None = None
        self.halved_after_epoch = job.halved_after_epoch
        self.record = new_record(job.experiment, data, history=history, checkpoint=checkpoint)

    def begin(self, samples: npt.NDArray[np.uint8]) -> None:
        """Open the files of the run; ``samples`` is a picture of training images, uint8 (rows, columns, RGBA)."""
        job = self.job
        # What the last attempt came to is no longer so.
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
        failed = isinstance(self.outcome, Exception) or tested is None
        value = tracker.monitor.worst if failed else finite_or_worst(tracker.monitor.metric, tested.value)
        return setting_of(self.job.overrides), value

    @property
    def writer(self) -> RunWriter:
        assert self.record.writer is not None
        return self.record.writer

    def live_in(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], averages: Sequence[Tensor]) -> None:
        """Make the classifier's weights views of the tensors given, each a row of the population's."""
        _point(self.classifier.network, parameters, buffers)
        if self.classifier.average is not None:
            _point(self.classifier.average, averages, buffers)

    def count(self, confusion: Tensor, losses: Sequence[float], sizes: Sequence[int], *, last_step: int) -> None:
        """Add what a chunk brought: int64 (K, K) on the host, and mean losses of mini-batches up to ``last_step``."""
        own, every = self.classifier.train_counts, self.classifier.log_every_steps
        own.confusion = own.confusion + confusion
        own.add_losses(losses, sizes)
        steps = range(last_step - len(losses) + 1, last_step + 1)
        logged = [(step, loss) for step, loss in zip(steps, losses, strict=True) if step % every == 0]
        self.classifier.logged_losses += logged

    def take_train_metrics(self) -> None:
        counts, self.classifier.train_counts = (
            self.classifier.train_counts,
            Counts.zeros(len(self.classifier.facts.class_names), torch.device("cpu")),
        )
        self._images = int(counts.confusion.sum())
        self.record.metrics |= {f"train/{name}": value for name, value in counts.metrics().items()}

    def validated(self, counts: Counts, position: Position, state: State, *, last: bool) -> None:
        """Take a validation in; ``last`` is whether the epoch's end comes next, which saves the run anyway."""
        with log_to(self.job.folder.log):
            measured = {f"val/{name}": value for name, value in counts.metrics().items()}
            self._improved = self.record.add_validation(measured, position)
            if self._improved and not last and not self.record.best_tracker.should_stop:
                self.save(position, state, best=True)

    def end_epoch(self, position: Position, *, epoch_over: bool) -> None:
        """What is done after an epoch, or where the run ends inside one; ``save_epoch`` comes next."""
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
        """Write the checkpoints after an epoch. Members may do so at the same time, in threads."""
        if epoch_over:
            position = replace(position)
            position.next_epoch()
        if self._improved or not self.record.validating:
            self.save(position, state, best=True)
        self.save(position, state, best=False)
        self._improved, self.record.metrics = False, {}

    def is_over(self, position: Position) -> bool:
        """Whether its last step, early stopping or halving has ended it."""
        over = position.total_steps >= self.classifier.total_steps
        return over or self.record.best_tracker.should_stop or self.halved_after_epoch is not None

    def save(self, position: Position, state: State, *, best: bool) -> None:
        """Write a checkpoint; a solo run would go on from it, too."""
        self.record.add_losses(self.classifier.take_logged_losses())
        self.classifier.position = replace(position)
        groups = [{**group, "lr": self.learning_rate} for group in self._param_groups]
        optimizer_state = {"state": state(), "param_groups": groups}
        counts = [self.classifier.train_counts]
        content = snapshot(self.classifier, optimizer_state, self.record, train_counts=counts)
        content |= self._cohort.saved()
        if self.halved_after_epoch is not None:
            content["halved_after_epoch"] = self.halved_after_epoch
        self.writer.checkpoint(content, best=best)

    def stop(self, position: Position, state: State, error: Exception) -> None:
        """Save the run where it stands: a signal came."""
        self.save(position, state, best=False)
        self._close("stopped", error)

    def abandon(self, error: Exception | None) -> None:
        """Close the files of the run where ``error`` met its population: it failed, and what was saved stands.

        Without an error it goes on in another population.
        """
        if self.record.writer is None:
            return
        # Why it ends is told by what ended it, which may have been a full disk.
        with suppress(OSError, MemoryError, RunError):
            if error is not None:
                self._close("failed", error)
        with suppress(OSError, MemoryError):
            self.record.writer.close()

    def fail(self, error: Exception) -> None:
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
        """Take the weights out of the population's tensors, so that these can go."""
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
    for path in (job.folder.last, job.folder.previous):
        if job.checkpoint is None:
            path.unlink(missing_ok=True)
        else:
            write_checkpoint(path, job.checkpoint)


def _point(module: nn.Module, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
    own = [*module.parameters(), *module.buffers()]
    for tensor, row in zip(own, (*parameters, *buffers), strict=True):
        tensor.data = row
