"""One run of a population: its folder, its state, and its classifier, whose weights are views of the stacked ones."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from digitlab.core.errors import RunError
from digitlab.core.logging import log_to
from digitlab.data.chunks import Position
from digitlab.data.module import ImageData
from digitlab.engine.metrics import Counts
from digitlab.figures.events import send_epoch, send_samples, send_test, send_weights
from digitlab.population.cohort import Cohort
from digitlab.population.halving import Setting, setting_of, worse_half
from digitlab.population.job import Job
from digitlab.results.checkpoint import write_checkpoint
from digitlab.results.result import Status
from digitlab.results.writer import RunWriter
from digitlab.training.checkpointing import snapshot
from digitlab.training.setup import (
    initial_classifier,
    new_run_state,
    run_writer,
    summarise,
    training_plan,
)

# Returns the "state" of a torch.optim optimizer. A function, because only checkpoints need it and it copies tensors.
State = Callable[[], dict[int, dict[str, Tensor]]]


class Member:
    """Does for one run of a population what Lightning's trainer and ``RunCallback`` do for a solo run.

    ``outcome`` is None until the run ends; then it is the monitored value, or the error that ended the run.
    """

    def __init__(self, job: Job, data: ImageData, *, position: Position, cohort: Cohort) -> None:
        self.job, self.data, self._cohort = job, data, cohort
        # All members of a population make their updates together, so they share its position.
        self.plan = training_plan(job.experiment, data, position)
        self.classifier = initial_classifier(job.experiment, data, plan=self.plan)
        # This restores weights and counts. The population loads the optimizer's state into its stacked tensors later.
        self.run_state = new_run_state(job.experiment, data, self.classifier, job.folder, checkpoint=job.checkpoint)
        # A member has no torch.optim optimizer. Its checkpoints contain the groups of the one it would have alone.
        self._param_groups = self.classifier.update.build(self.classifier.network).state_dict()["param_groups"]
        self.outcome: float | Exception | None = None
        self._learning_rate = 0.0
        self._step_threads: int | None = None
        self._halved_after_epoch = job.halved_after_epoch

    def begin(self, samples: npt.NDArray[np.uint8], *, step_threads: int) -> None:
        """Open the run's files; ``samples`` is a picture of training images, uint8 (rows, columns, RGBA).

        ``step_threads`` is the number of threads of the population's updates.
        """
        job, self._step_threads = self.job, step_threads
        # The result of an earlier attempt is not valid any more.
        job.folder.result.unlink(missing_ok=True)
        if job.rewound:
            _rewind(job)
        with log_to(job.folder.log):
            self.run_state.write_to(run_writer(job.config, job.folder, checkpoint=job.checkpoint))
            summarise(self.classifier, self.writer)
        if job.start.total_steps == 0:
            send_samples(self.writer, samples)

    @property
    def score(self) -> tuple[Setting, float]:
        """The run's setting and its monitored value so far, which halving compares; the worst value if the run failed.

        The value is that of the checkpoint that would be tested now, as in the result of a run that has ended.
        """
        failed = isinstance(self.outcome, Exception)
        value = self.job.experiment.monitor.worst if failed else self.run_state.monitored
        return setting_of(self.job.overrides), value

    @property
    def writer(self) -> RunWriter:
        assert self.run_state.writer is not None
        return self.run_state.writer

    def use_tensors(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], averages: Sequence[Tensor]) -> None:
        """Make the classifier's tensors views of the given ones, which are rows of the stacked tensors.

        So updates of the stacked tensors also change the classifier.
        """
        _make_views(self.classifier.network, parameters, buffers)
        if self.classifier.average is not None:
            _make_views(self.classifier.average, averages, buffers)

    def count(
        self, confusion: Tensor, losses: Sequence[float], sizes: Sequence[int], *, last_learning_rate: float
    ) -> None:
        """Add a chunk's confusion matrix, int64 (K, K) on the host, mean losses and sizes of its mini-batches."""
        # Training metrics are counted by the classifier, as in a solo run, so that checkpoints look the same.
        self.classifier.count(confusion, losses, sizes)
        # The row of an epoch shows the learning rate of its last update.
        self._learning_rate = last_learning_rate

    def take_train_metrics(self) -> None:
        """Turn the counts of the epoch into training metrics, and start new counts."""
        self.run_state.add_training(self.classifier.take_train_counts())

    def validated(self, counts: Counts, state: State, *, last: bool) -> None:
        """Add a validation, and save an improvement. The ``last`` validation saves none: the end of the epoch does."""
        with log_to(self.job.folder.log):
            self.run_state.add_validation(counts)
            if not last:
                self.run_state.save_improvement(lambda best: self.save(self.plan.position, state, best=best))

    def end_epoch(self) -> None:
        """Add the row of an epoch, or of its first part if the run ends inside it; ``save_epoch`` comes next."""
        with log_to(self.job.folder.log):
            self.run_state.end_epoch(self.classifier.take_train_counts, learning_rate=self._learning_rate)
        if self.job.config.figures.each_epoch:
            send_epoch(self.writer, self.classifier, self.data, self.run_state)

    def save_epoch(self, state: State) -> None:
        """Write the checkpoints after an epoch. Several members do this at the same time, in threads."""
        # A copy, because the members share one position, and it changes only when all of them are saved.
        position = replace(self.plan.position)
        if self.run_state.epoch_is_complete:
            position.next_epoch()
        self.run_state.save_epoch(lambda best: self.save(position, state, best=best))

    @property
    def is_over(self) -> bool:
        """Whether the run has reached its last step, or early stopping or halving ends it."""
        return self.run_state.is_over or self._halved_after_epoch is not None

    def halve(self, epoch: int) -> None:
        """Let halving end the run after ``epoch``."""
        self._halved_after_epoch = epoch

    def save(self, position: Position, state: State, *, best: bool) -> None:
        """Write a checkpoint in the format of a solo run, so that the run can also resume alone."""
        self.run_state.add_losses(self.classifier.take_logged_losses())
        # The stored learning rate is the last one used, which is what a solo run stores.
        groups = [{**group, "lr": self._learning_rate} for group in self._param_groups]
        optimizer_state = {"state": state(), "param_groups": groups}
        counts = [self.classifier.train_counts]
        content = snapshot(self.classifier, optimizer_state, self.run_state, position=position, train_counts=counts)
        content |= self._cohort.checkpoint_fields()
        if self._halved_after_epoch is not None:
            content["halved_after_epoch"] = self._halved_after_epoch
        self.writer.checkpoint(content, best=best)

    def stop(self, state: State, error: Exception) -> None:
        """Save the run after a signal and close its files."""
        self.save(self.plan.position, state, best=False)
        self._close("stopped", error)

    def abandon(self, error: Exception | None) -> None:
        """Close the run's files after ``error`` ended its population; the saved checkpoints stay.

        Without an error the run continues in another population, and its result is not written.
        """
        # No file was opened: the population failed before its first chunk.
        if self.run_state.writer is None:
            return
        # The disk may be full. Then the error that ended the population is the one to report, not this one.
        with suppress(OSError, MemoryError, RunError):
            if error is not None:
                self._close("failed", error)
        with suppress(OSError, MemoryError):
            self.run_state.writer.close()

    def fail(self, error: Exception) -> None:
        """End this run with ``error``; the other members continue."""
        self._leave_stack()
        # The other members' checkpoints contain this, so that halving still counts the setting after a resume.
        self._cohort.failed_settings[self.job.folder.path.name] = list(setting_of(self.job.overrides))
        self.outcome = error
        self._close("failed", error)

    def begin_test(self) -> bool:
        """Load the checkpoint that the key ``test`` names; return whether the run is to be tested."""
        self._leave_stack()
        try:
            if not self.job.config.figures.each_epoch:
                send_weights(self.writer, self.classifier)
            return self.run_state.begin_test()
        except Exception as error:
            self.fail(error)
        return False

    def finish(self, measured: tuple[dict[str, float], Tensor] | None) -> None:
        """Write the result after ``begin_test``. The result says whether halving ended the run.

        ``measured`` has the metrics and the confusion matrix of the test; None without a test.
        """
        if self.outcome is not None:  # ``begin_test`` or the test failed
            return
        try:
            if measured is not None:
                self.run_state.add_test(*measured)
                send_test(self.writer, self.classifier)
        except Exception as error:
            self.fail(error)
        else:
            self.outcome = self.run_state.monitored_in(self._close("finished", None))

    def _leave_stack(self) -> None:
        """Copy the weights out of the stacked tensors, so that these can be freed."""
        # ``tensor.data = ...`` keeps the parameter objects, which the figures and the optimizer's groups refer to.
        for module in (self.classifier.network, self.classifier.average):
            for tensor in [] if module is None else [*module.parameters(), *module.buffers()]:
                tensor.data = tensor.data.clone()

    def _close(self, status: Status, error: Exception | None) -> dict[str, Any]:
        # Only the result of a finished run says this, because a run that failed or was stopped is tried again.
        halved = status == "finished" and self._halved_after_epoch is not None
        with log_to(self.job.folder.log):
            return self.run_state.conclude(
                status, error, device=self.classifier.device, split_fingerprint=self.data.split_fingerprint,
                overrides=self.job.overrides, threads=self._step_threads,
                more={"halved_after_epoch": self._halved_after_epoch} if halved else None,
            )  # fmt: skip


def halve_worse_half(active: Sequence[Member], all_members: Sequence[Member], cohort: Cohort, *, epoch: int) -> None:
    """End the members in the worse half of the settings of ``active`` after ``epoch``.

    Several members can have the same setting (see ``setting_of``). Settings whose runs failed rank last.
    """
    folder, monitor = all_members[0].job.folder.path.parent, all_members[0].job.experiment.monitor
    current_scores = {member.job.folder.path.name: member.score for member in all_members}
    scores_by_setting = cohort.scores_by_setting(folder, current_scores, epoch=epoch, worst=monitor.worst)
    # Members that have reached their last step end anyway. Their settings are not halved.
    remaining = [member for member in active if not member.is_over]
    settings = {setting_of(member.job.overrides) for member in remaining}
    worse = worse_half(
        {setting: scores for setting, scores in scores_by_setting.items() if setting in settings}, monitor.mode
    )
    for member in remaining:
        if setting_of(member.job.overrides) in worse:
            member.halve(epoch)


def _rewind(job: Job) -> None:
    """Replace the checkpoints of the folder by ``job.checkpoint``, or remove them if the job begins again.

    Otherwise, if the run is killed before its next checkpoint, it would resume from the newer one that was skipped.
    """
    for path in (job.folder.last, job.folder.previous):
        if job.checkpoint is None:
            path.unlink(missing_ok=True)
        else:
            write_checkpoint(path, job.checkpoint)


def _make_views(module: nn.Module, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
    tensors = [*module.parameters(), *module.buffers()]
    # Assigning ``data`` keeps the parameter objects and replaces their memory by that of the stacked row.
    for tensor, row in zip(tensors, (*parameters, *buffers), strict=True):
        tensor.data = row
