"""``train(cfg)``: trains and tests one solo run, from its composed configuration to ``result.json``.

``train.py``, ``digitlab.train`` and the workers of sweeps call it. (A population trains several runs together without
it.) Under DDP every process calls it, and rank 0, the first process, writes the files.
"""

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops.progress import _ProcessedTracker
from omegaconf import DictConfig

from digitlab.config.cli_errors import command_line_overrides
from digitlab.config.place import train_command
from digitlab.core.errors import DigitlabError, RunError
from digitlab.core.exit import sigterm_exits
from digitlab.core.files import disk_faults, require_text
from digitlab.core.logging import quiet_libraries
from digitlab.core.memory import report_out_of_memory
from digitlab.core.notebook import in_notebook
from digitlab.core.ranks import first_process_reports, is_first_process, lost_process_reported
from digitlab.core.signals import Interrupted, StopSignal
from digitlab.engine.device import float32_products
from digitlab.results.checkpoint import newest_usable_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.lock import locked_folder
from digitlab.results.result import Status
from digitlab.training.checkpoint_io import AtomicCheckpointIO
from digitlab.training.checkpointing import saved_position, warn_of_other_cpu
from digitlab.training.contention import ContentionHint
from digitlab.training.evaluation import measure_test
from digitlab.training.experiment import Experiment
from digitlab.training.progress import EpochBar, NotebookProgress
from digitlab.training.run_callback import RunCallback, Saver
from digitlab.training.setup import (
    initial_classifier,
    new_run_state,
    read_data,
    run_writer,
    summarise,
    training_plan,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: its folder, ``result.json`` as a dict, and its value of the monitored metric.

    ``monitored`` is the value at the checkpoint that ``result`` describes.
    """

    folder: Path
    result: dict[str, Any]
    monitored: float


def train(
    config: DictConfig, *, folder: Path | None = None, overrides: Sequence[str] | None = None, resume: bool = False
) -> Outcome:
    """Train and test the run that ``config`` describes, and write its files into ``folder``.

    With ``resume``, continue from the last checkpoint in ``folder``, if it has one. Without ``resume``, an error before
    the start of training removes the folder again. ``overrides`` are the command-line settings from which ``config``
    was composed, such as ``model=lenet``. The defaults of ``folder`` and ``overrides`` are those of the running Hydra
    job.

    Raises ``ConfigError`` for a bad setting, ``DataError`` for missing or damaged data, ``RunError`` for a loss that is
    not finite, a lack of memory, a full disk or a folder that another process works on, and ``Interrupted`` after
    SIGINT or SIGTERM.
    """
    if overrides is None:
        overrides = command_line_overrides()
    run_folder = RunFolder(Path(HydraConfig.get().runtime.output_dir) if folder is None else Path(folder))
    require_text(run_folder.path, key="hydra.run.dir")
    with disk_faults(run_folder.path):
        run_folder.path.mkdir(parents=True, exist_ok=True)
    # With several processes (DDP), only the first one locks the folder.
    with locked_folder(run_folder) if is_first_process() else nullcontext():
        try:
            with quiet_libraries(), report_out_of_memory(), disk_faults(run_folder.path):
                return _train(config, run_folder, overrides=overrides, resume=resume)
        except (DigitlabError, KeyboardInterrupt, SystemExit):
            # The folder of a resumed run belongs to the user, even if the run was killed before its first checkpoint.
            if not resume:
                run_folder.discard_if_fresh()
            raise


def _train(config: DictConfig, folder: RunFolder, *, overrides: Sequence[str], resume: bool) -> Outcome:
    stop_signal = StopSignal()
    # While data is downloaded there is nothing to save, so a signal ends the process at once.
    with sigterm_exits():
        run = Run(config, folder, overrides=overrides, stop_signal=stop_signal, resume=resume)
    matrix_products = float32_products(run.trainer.strategy.root_device, run.experiment.trainer.precision)
    try:
        # An error passes these contexts from right to left. It becomes an error about a lost process if the connection
        # to that process broke; then all processes but rank 0 end; then rank 0 writes the error into ``result.json``.
        # Signals do not end the process before that is written.
        with stop_signal, run.result_written(), first_process_reports(), matrix_products, lost_process_reported():
            run.fit()
            run.obey_signal()
            run.test()
            run.obey_signal()
    except Interrupted as interrupted:
        # Raise it again with a message that says how far the run got and how to resume it.
        resume_command = shlex.join([*train_command(), f"resume={folder.path}"])
        where = f" at {run.position_text()}: saved"
        raise Interrupted(interrupted.number, where, how=resume_command, folder=folder.path) from None
    finally:
        run.data.release()
    return run.outcome()


class Run:
    """The parts of one run, and its phases in order: ``fit``, ``test``, ``outcome``.

    The constructor builds everything that can fail before it changes a file. With ``resume``, it loads the newest
    usable checkpoint in ``folder``. ``stop_signal`` stops the training after the current update.
    """

    def __init__(
        self, config: DictConfig, folder: RunFolder, *, overrides: Sequence[str], stop_signal: StopSignal, resume: bool
    ) -> None:
        self.folder, self.overrides = folder, list(overrides)
        self.experiment = experiment = Experiment.from_config(config, typed=overrides)
        self.data = read_data(experiment)
        # Without a checkpoint, a resumed run starts from the beginning: it was killed before it saved anything.
        checkpoint = newest_usable_checkpoint(folder, hyper_parameters=experiment.hyper_parameters) if resume else None
        warn_of_other_cpu(checkpoint)
        self.plan = training_plan(experiment, self.data, saved_position(checkpoint))
        self.classifier = initial_classifier(
            experiment, self.data, plan=self.plan, stop_signal=stop_signal, resumed=checkpoint is not None
        )
        self.run_state = new_run_state(experiment, self.data, self.classifier, folder, checkpoint=checkpoint)
        self.run_callback = RunCallback(
            run_state=self.run_state, stop_signal=stop_signal, save_every_seconds=experiment.checkpoint.every_seconds,
            checkpoint=checkpoint,
        )  # fmt: skip
        self.trainer = self._trainer()
        self._start_counters()
        # The content of ``result.json``, once ``result_written`` has written it.
        self.result: dict[str, Any] = {}
        # The writer removes the rows and events that are newer than the checkpoint, and opens files that only the end
        # of the run closes. So it is created last, when no setting can be refused any more.
        if is_first_process():
            self.run_state.write_to(run_writer(config, folder, checkpoint=checkpoint))

    def _trainer(self) -> Trainer:
        settings = self.experiment.trainer
        displays: list[Callback] = []
        if settings.progress_bar:
            progress = NotebookProgress if in_notebook() else EpochBar
            displays = [progress(self.run_state.rows), ContentionHint(self.overrides)]
        return Trainer(
            **settings.lightning(),
            default_root_dir=self.folder.path,
            # The order matters: see ``run_callback``. ``Saver`` comes even after the users' callbacks.
            callbacks=[
                self.run_callback, self.experiment.figures, *displays, *self.experiment.callbacks,
                Saver(self.run_callback),
            ],
            # 0 makes Lightning skip the validation. The loader of the validation images applies all other limits.
            limit_val_batches=1.0 if len(self.data.val_indices) > 0 else 0,
            # The writer of ``run_state`` writes all of this instead, or a callback shows it.
            logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
            # Lightning would validate before training. The chunk loader gives each process its own images.
            num_sanity_val_steps=0, use_distributed_sampler=False, plugins=[AtomicCheckpointIO()],
        )  # fmt: skip

    def _start_counters(self) -> None:
        """Set Lightning's counters to the epoch and the step of the checkpoint.

        Lightning itself sets them only if it loads the checkpoint. The loader of the chunks knows at which mini-batch
        of the epoch to continue.
        """
        epoch_counter = self.trainer.fit_loop.epoch_progress.current
        assert isinstance(epoch_counter, _ProcessedTracker)
        epoch_counter.processed = epoch_counter.completed = self.plan.position.epoch
        step_counter = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        step_counter.ready = step_counter.completed = self.plan.position.total_steps

    @contextmanager
    def result_written(self) -> Iterator[None]:
        """Write ``result.json`` at the end of the with block, whether the run finished, failed or was stopped."""
        try:
            yield
        except BaseException as error:
            # If writing the result fails, too, for example on a full disk, the original error is raised.
            with suppress(OSError, RunError):
                self._conclude("stopped" if isinstance(error, Interrupted) else "failed", error)
            raise
        self._conclude("finished", None)

    def _conclude(self, status: Status, error: BaseException | None) -> None:
        self.result = self.run_state.conclude(
            status, error, device=self.trainer.strategy.root_device, split_fingerprint=self.data.split_fingerprint,
            overrides=self.overrides, threads=self.classifier.step_threads,
        )  # fmt: skip
        hint = self.run_state.learning_hint() if status == "finished" else None
        if hint is not None and is_first_process():
            # In a sweep, whose runs have no progress bar, a table shows all values.
            log.log(logging.WARNING if self.experiment.trainer.progress_bar else logging.INFO, hint)

    def fit(self) -> None:
        """Train until the last step or early stopping. If a resumed run is complete already, only draw the figures."""
        self._summarise()
        if self.run_state.is_over:
            reason = "all its steps are done" if self.plan.is_over else "early stopping ended it"
            log.info("the training of this run is already complete: %s", reason)
            # The run may have been killed after its last checkpoint, before it wrote the figures of its final weights.
            self.experiment.figures.on_train_end(self.trainer, self.classifier)
            return
        try:
            self.trainer.fit(self.classifier, datamodule=self.data)
        finally:
            # The test needs this memory, and so does the next run in the same process.
            self.classifier.release_updates()

    def obey_signal(self) -> None:
        """Stop between two phases if a signal has arrived. Under DDP, also wait until rank 0 has written its files."""
        self.run_callback.stop_signal.obey(self.trainer)

    def position_text(self) -> str:
        """Return which epoch and step the run has reached, as text for a message."""
        position, steps = self.plan.position, self.plan.steps_per_epoch
        return f"epoch {position.epoch + 1}, step {position.step} of {steps}"

    def _summarise(self) -> None:
        """Write the summary of the network, and print it if the progress is shown on a terminal."""
        if self.run_state.writer is None:  # this process does not have rank 0
            return
        summary = summarise(self.classifier, self.run_state.writer)
        # In a notebook the progress is a single line.
        if self.experiment.trainer.progress_bar and not in_notebook():
            # A full disk or a closed pipe must not end the run. The table at its end reports the error.
            with suppress(OSError):
                print(summary)

    def test(self) -> None:
        """Evaluate the test set once, with the checkpoint that the key ``test`` names."""
        # A run that was killed during its test resumes here and tests again.
        if self.run_state.begin_test():
            self.run_state.add_test(*measure_test(self.trainer, self.classifier, self.data))

    def outcome(self) -> Outcome:
        """Return the result of the finished run."""
        return Outcome(self.folder.path, self.result, self.run_state.monitored_in(self.result))
