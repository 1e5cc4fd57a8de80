"""``Member``: one run of a population. ``trainer`` makes a member of each job, and calls it after each chunk and epoch.

A population trains the networks of several runs together: their weights are rows of stacked tensors. A member holds
what belongs to one run: its folder, its metrics, and a classifier whose weights are views of its rows.
"""

import logging
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

log = logging.getLogger(__name__)

# A function that returns the entry "state" of the ``state_dict`` of a torch.optim optimizer. It copies tensors, so it
# is called only when a checkpoint is written.
ReadOptimizerState = Callable[[], dict[int, dict[str, Tensor]]]


class Member:
    """Does for one run of a population what Lightning's trainer and ``RunCallback`` do for a solo run.

    All members of a population share ``position`` and ``cohort``. ``outcome`` is None until the run ends; then it is
    the monitored value, or the error that ended the run.
    """

    def __init__(self, job: Job, data: ImageData, *, position: Position, cohort: Cohort) -> None:
        self.job, self.data, self._cohort = job, data, cohort
        # All members of a population make their updates together, so they share its position.
        self.plan = training_plan(job.experiment, data, position)
        self.classifier = initial_classifier(job.experiment, data, plan=self.plan)
        # This restores weights and counts. The population loads the optimizer's state into its stacked tensors later.
        self.run_state = new_run_state(job.experiment, data, self.classifier, job.folder, checkpoint=job.checkpoint)
        # A member has no torch.optim optimizer. Its checkpoints contain the parameter groups that the optimizer of its
        # solo run would have.
        self._param_groups = self.classifier.update.build(self.classifier.network).state_dict()["param_groups"]
        self.outcome: float | Exception | None = None
        self._learning_rate = 0.0
        self._step_threads: int | None = None
        self._halved_after_epoch = job.halved_after_epoch

    def begin(self, samples: npt.NDArray[np.uint8], *, step_threads: int) -> None:
        """Open the run's files; ``samples`` is a picture of training images, uint8 (height, width, 4), for TensorBoard.

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
        """The run's setting (see ``halving``) and its monitored value so far; the worst value if the run failed.

        Halving compares them. The value is that of the checkpoint that would be tested now, because the result of a run
        that has ended also contains the value of the tested checkpoint.
        """
        failed = isinstance(self.outcome, Exception)
        value = self.job.experiment.monitor.worst if failed else self.run_state.monitored
        return setting_of(self.job.overrides), value

    @property
    def writer(self) -> RunWriter:
        # ``begin`` has made it.
        assert self.run_state.writer is not None
        return self.run_state.writer

    def use_tensors(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], averages: Sequence[Tensor]) -> None:
        """Make the classifier's tensors views of the given ones, which are rows of the stacked tensors.

        So updates of the stacked tensors also change the classifier. ``averages`` are the averaged weights (EMA), if
        the run has them.
        """
        _make_views(self.classifier.network, parameters, buffers)
        if self.classifier.average is not None:
            _make_views(self.classifier.average, averages, buffers)

    def count(
        self, confusion: Tensor, losses: Sequence[float], sizes: Sequence[int], *, last_learning_rate: float
    ) -> None:
        """Add the results of a chunk, which is a number of consecutive mini-batches, to the training metrics.

        ``confusion`` is its confusion matrix, int64 (K, K) on the CPU. ``losses`` and ``sizes`` are the mean loss and
        the number of images of each mini-batch.
        """
        # The classifier counts training metrics, as in a solo run, so that checkpoints have the same content.
        self.classifier.count(confusion, losses, sizes)
        # The row of an epoch shows the learning rate of its last update.
        self._learning_rate = last_learning_rate

    def take_train_metrics(self) -> None:
        """Turn the counts of the epoch into training metrics, and start new counts."""
        self.run_state.add_training(self.classifier.take_train_counts())

    def add_validation(self, counts: Counts, read_optimizer_state: ReadOptimizerState, *, last: bool) -> None:
        """Add the metrics of a validation, and save the run if they are the best so far.

        After the ``last`` validation of an epoch, ``save_epoch`` saves the run instead.
        """
        with log_to(self.job.folder.log):
            self.run_state.add_validation(counts)
            if not last:
                self.run_state.save_improvement(
                    lambda best: self.save(self.plan.position, read_optimizer_state, best=best)
                )

    def end_epoch(self) -> None:
        """Add the metrics of an epoch, or of its first part if the run ends inside it; ``save_epoch`` comes next."""
        with log_to(self.job.folder.log):
            self.run_state.end_epoch(self.classifier.take_train_counts, learning_rate=self._learning_rate)
        if self.job.config.figures.each_epoch:
            send_epoch(self.writer, self.classifier, self.data, self.run_state)

    def save_epoch(self, read_optimizer_state: ReadOptimizerState) -> None:
        """Write the checkpoints after an epoch. Several members do this at the same time, in threads."""
        # A checkpoint after a complete epoch contains the start of the next one. This changes a copy, because the
        # members share one position, and it must not change before all of them are saved.
        position = replace(self.plan.position)
        if self.run_state.epoch_is_complete:
            position.next_epoch()
        self.run_state.save_epoch(lambda best: self.save(position, read_optimizer_state, best=best))

    @property
    def is_over(self) -> bool:
        """Whether the run has reached its last step, or early stopping or halving ends it."""
        return self.run_state.is_over or self._halved_after_epoch is not None

    def halve(self, epoch: int) -> None:
        """Let halving end the run after ``epoch``."""
        self._halved_after_epoch = epoch

    def save(self, position: Position, read_optimizer_state: ReadOptimizerState, *, best: bool) -> None:
        """Write a checkpoint in the format of a solo run, so that the run can also resume alone.

        It is ``best.ckpt`` if ``best``, otherwise ``last.ckpt``.
        """
        self.run_state.add_losses(self.classifier.take_logged_losses())
        # The stored learning rate is the last one used, which is what a solo run stores.
        groups = [{**group, "lr": self._learning_rate} for group in self._param_groups]
        optimizer_state = {"state": read_optimizer_state(), "param_groups": groups}
        counts = [self.classifier.train_counts]
        content = snapshot(self.classifier, optimizer_state, self.run_state, position=position, train_counts=counts)
        content |= self._cohort.checkpoint_fields()
        if self._halved_after_epoch is not None:
            content["halved_after_epoch"] = self._halved_after_epoch
        self.writer.checkpoint(content, best=best)

    def stop(self, read_optimizer_state: ReadOptimizerState, error: Exception) -> None:
        """Save the run after a signal, which ``error`` describes, and close its files."""
        self.save(self.plan.position, read_optimizer_state, best=False)
        self._close("stopped", error)

    def abandon(self, error: Exception | None) -> None:
        """Close the run's files after ``error`` ended its population; the saved checkpoints stay.

        Without an error the run continues in another population, and its result is not written.
        """
        # No file was opened: the population failed before the end of its first chunk.
        if self.run_state.writer is None:
            return
        # Writing fails too if the disk is full. The caller reports the error that ended the population, not this one.
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
            # With ``figures.each_epoch``, ``end_epoch`` has sent them after every epoch.
            if not self.job.config.figures.each_epoch:
                send_weights(self.writer, self.classifier)
            return self.run_state.begin_test()
        except Exception as error:
            self.fail(error)
        return False

    def finish(self, measured: tuple[dict[str, float], Tensor] | None) -> None:
        """Write the result after ``begin_test``. The result says whether halving ended the run.

        ``measured`` has the metrics of the test and its confusion matrix, int64 (K, K); None without a test.
        """
        if self.outcome is not None:  # ``begin_test`` or the test failed, and the result says so
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
        """Write the result and close the files; return the content of the result."""
        # Only a finished run counts as ended by halving, because a run that failed or was stopped is tried again.
        halved = status == "finished" and self._halved_after_epoch is not None
        with log_to(self.job.folder.log):
            hint = self.run_state.learning_hint() if status == "finished" else None
            if hint is not None:
                log.info(hint)
            return self.run_state.conclude(
                status, error, device=self.classifier.device, split_fingerprint=self.data.split_fingerprint,
                overrides=self.job.overrides, threads=self._step_threads,
                more={"halved_after_epoch": self._halved_after_epoch} if halved else None,
            )  # fmt: skip


def halve_worse_half(active: Sequence[Member], all_members: Sequence[Member], cohort: Cohort, *, epoch: int) -> None:
    """End the members in the worse half of the settings of ``active`` after ``epoch``.

    Several members can have the same setting (see ``setting_of``). A setting with a failed run ranks last, because the
    score of that run is the worst value.
    """
    folder, monitor = all_members[0].job.folder.path.parent, all_members[0].job.experiment.monitor
    current_scores = {member.job.folder.path.name: member.score for member in all_members}
    scores_by_setting = cohort.scores_by_setting(folder, current_scores, epoch=epoch, worst=monitor.worst)
    # Members that have reached their last step end anyway. A setting is compared only if another member of it remains.
    remaining = [member for member in active if not member.is_over]
    settings = {setting_of(member.job.overrides) for member in remaining}
    worse = worse_half(
        {setting: scores for setting, scores in scores_by_setting.items() if setting in settings}, monitor.mode
    )
    for member in remaining:
        if setting_of(member.job.overrides) in worse:
            member.halve(epoch)


def _rewind(job: Job) -> None:
    """Replace ``last.ckpt`` and ``previous.ckpt`` by ``job.checkpoint``, or remove them if the job begins again.

    Otherwise, if the run is killed before it writes its next checkpoint, it would resume from the newer checkpoint,
    which the job has skipped to start at the same step as the other members.
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
