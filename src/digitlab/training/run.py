"""``train(cfg)``: one run from its composed configuration to its result."""

import logging
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Trainer
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities.model_summary import ModelSummary
from omegaconf import DictConfig, OmegaConf

from digitlab.data.chunks import ChunkPlan
from digitlab.data.seeding import stream_seed
from digitlab.results import environment
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.writer import RunWriter, Status
from digitlab.schema import DigitlabError
from digitlab.training.classifier import Classifier
from digitlab.training.experiment import Experiment
from digitlab.training.interrupt import Interrupted, StopSignal
from digitlab.training.progress import EpochBar
from digitlab.training.recorder import Recorder
from digitlab.training.selection import Selection
from digitlab.training.settings import DataFacts
from digitlab.training.snapshot import restore
from digitlab.training.surroundings import device_memory, first_process_reports, is_first_process, quiet_libraries
from digitlab.training.testing import measure_test

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: its folder, ``result.json`` as a dict, and the best value of the monitored metric."""

    folder: Path
    result: dict[str, Any]
    monitored: float


def train(
    config: DictConfig, *, folder: Path | None = None, overrides: Sequence[str] | None = None, resume: bool = False
) -> Outcome:
    """Run ``config`` in ``folder``; with ``resume``, go on from its last checkpoint, if it came so far.

    ``folder`` and ``overrides``, what was typed to get ``config``, are by default those of the running Hydra job.
    Raises ``ConfigError`` for a bad setting, ``DataError`` for missing or damaged data, ``RunError`` for a loss that is
    not finite or a device out of memory, and ``Interrupted`` after SIGINT or SIGTERM. A folder in which nothing has
    begun is removed again; a job of a sweep keeps it, marked as failed.
    """
    if overrides is None:
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    run_folder = RunFolder(Path(HydraConfig.get().runtime.output_dir) if folder is None else Path(folder))
    run_folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with quiet_libraries(), device_memory():
            stop_signal = StopSignal()
            run = Run(config, run_folder, overrides=overrides, stop_signal=stop_signal, resume=resume)
            # Before this, while data is fetched, there is nothing to save, and a signal ends the process as ever.
            with stop_signal, run.recorded(), first_process_reports():
                run.fit()
                run.obey_signal()
                run.test()
                run.obey_signal()
            return run.outcome()
    except DigitlabError:
        if not resume and not _in_sweep():
            run_folder.discard_if_fresh()
        raise


class Run:
    """The parts of one run, and its phases in order: ``fit``, ``test``, ``outcome``."""

    def __init__(
        self, config: DictConfig, folder: RunFolder, *, overrides: Sequence[str], stop_signal: StopSignal, resume: bool
    ) -> None:
        self.folder, self.overrides = folder, list(overrides)
        self.experiment = experiment = Experiment.from_config(config, typed=overrides)
        self.data = experiment.data
        self.data.overfit_batches = experiment.trainer.overfit_batches
        self.data.prepare_data()
        self.data.setup()
        checkpoint = read_checkpoint(folder.last) if resume and folder.last.exists() else None
        self.classifier = self._classifier()
        history = [] if checkpoint is None else restore(checkpoint, self.classifier)
        self.classifier.stop_signal = stop_signal
        self.rows: list[dict[str, float | int]] = [] if checkpoint is None else checkpoint["rows"]
        self.writer: RunWriter | None = None
        if is_first_process():
            container = OmegaConf.to_container(config, resolve=True)
            assert isinstance(container, dict)
            steps = self.classifier.position.total_steps
            self.writer = RunWriter(
                folder, config={str(k): v for k, v in container.items()}, rows=self.rows, steps=steps
            )
        self.recorder = Recorder(
            writer=self.writer,
            selection=Selection(
                monitor=experiment.monitor,
                early_stopping=experiment.early_stopping,
                last_is_best=len(self.data.val_indices) == 0,
                history=history,
            ),
            stop_signal=stop_signal,
            validating=len(self.data.val_indices) > 0,
            rows=self.rows,
            epoch_seconds=0.0 if checkpoint is None else checkpoint["epoch_seconds"],
        )
        self.trainer = self._trainer()
        self._plan()
        self.test_metrics: dict[str, float] = {}
        self.result: dict[str, Any] = {}

    def _classifier(self) -> Classifier:
        experiment, data = self.experiment, self.data
        source = data.source
        facts = DataFacts(
            name=source.name, title=source.title, image_shape=list(source.image_shape),
            class_names=list(source.class_names),
            mean=data.mean, std=data.std, margin_pixels=source.margin_pixels,
        )  # fmt: skip
        torch.manual_seed(stream_seed("init", experiment.switches.seed))
        classifier = Classifier(
            model=experiment.model, data=facts.plain(), loss=experiment.loss, optimizer=experiment.optimizer,
            scheduler=experiment.scheduler, ema_decay=experiment.ema_decay,
            gradient_clip_norm=experiment.trainer.gradient_clip_norm,
        )  # fmt: skip
        classifier.seed = experiment.switches.seed
        classifier.use_precision(experiment.trainer.dtype)
        if experiment.switches.compile:
            # In place, so that the names in the checkpoint stay as they are.
            classifier.network.compile()
        return classifier

    def _trainer(self) -> Trainer:
        settings = self.experiment.trainer
        return Trainer(
            **settings.lightning(),
            default_root_dir=self.folder.path,
            callbacks=[self.recorder, *([EpochBar()] if settings.progress_bar else []), *self.experiment.callbacks],
            limit_val_batches=1.0 if len(self.data.val_indices) > 0 else 0,
            # The run folder is written by the recorder's writer, which serves populations too.
            logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
            num_sanity_val_steps=0, use_distributed_sampler=False,
        )  # fmt: skip

    def _plan(self) -> None:
        settings, classifier, data = self.experiment.trainer, self.classifier, self.data
        data.plan = ChunkPlan(
            seed=self.experiment.switches.seed, batch_size=data.batch_size, chunk_length=settings.chunk_length,
            limit_train_batches=settings.limit_train_batches, max_steps=settings.max_steps,
            val_every_steps=settings.val_every_steps,
            rank=self.trainer.global_rank, world_size=self.trainer.world_size,
        )  # fmt: skip
        data.limit_val_batches, data.limit_test_batches = settings.limit_val_batches, settings.limit_test_batches
        classifier.log_every_steps = settings.log_every_steps
        classifier.steps_per_epoch = data.plan.steps_per_epoch(len(data.train_indices))
        all_epochs = settings.max_epochs * classifier.steps_per_epoch
        classifier.total_steps = min(all_epochs, settings.max_steps or all_epochs)
        # Lightning's own counters start where the run stands; the loader knows the place within the epoch.
        progress = self.trainer.fit_loop.epoch_progress.current
        assert isinstance(progress, _ProcessedTracker)
        progress.processed = progress.completed = classifier.position.epoch

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write ``result.json`` whichever way the run ends."""
        status: Status = "failed"
        error: BaseException | None = None
        try:
            yield
            status = "finished"
        except Interrupted as stop:
            status, error = "stopped", stop
            raise
        except BaseException as failure:
            error = failure
            raise
        finally:
            self.result = self._result(status, error)
            if self.writer is not None:
                self.writer.result(self.result, step=self.classifier.position.total_steps)
                self.writer.close()

    def fit(self) -> None:
        self._summarise()
        over = self.classifier.position.total_steps >= self.classifier.total_steps
        if over or self.recorder.selection.exhausted:
            log.info("this run has come to its end before, by %s", "its last step" if over else "early stopping")
            return
        self.trainer.fit(self.classifier, datamodule=self.data)

    def obey_signal(self) -> None:
        """Stop between two phases; with several processes also where the others wait until the first has written."""
        self.recorder.stop_signal.obey(self.trainer)

    def _summarise(self) -> None:
        if self.writer is None:
            return
        summary = str(ModelSummary(self.classifier, max_depth=-1))
        self.writer.summary(summary + "\n")
        log.info("model:\n%s", summary)
        if self.experiment.trainer.progress_bar and not _in_sweep():
            print(summary)

    def test(self) -> None:
        """Measure the test set once, on the checkpoint that ``test`` names."""
        which = self.experiment.switches.test
        if which == "none":
            return
        checkpoint = read_checkpoint(self.folder.best if which == "best" else self.folder.last)
        self.classifier.load_state_dict(checkpoint["state_dict"])
        metrics, confusion = measure_test(self.trainer, self.classifier, self.data)
        self.test_metrics = checkpoint["metrics"] | metrics
        if self.writer is not None:
            self.writer.confusion(confusion, self.classifier.facts.class_names)

    def _result(self, status: Status, error: BaseException | None) -> dict[str, Any]:
        best, rows = self.recorder.selection.best, self.recorder.rows
        result = {
            "status": status,
            "metrics": self.test_metrics or self._best_metrics(),
            "best_epoch": None if best is None else best.epoch,
            "epochs": len(rows),
            "train_seconds": sum(row["train_seconds"] for row in rows),
            "images_per_second": statistics.median([row["images_per_second"] for row in rows]) if rows else None,
            "parameters": sum(parameter.numel() for parameter in self.classifier.network.parameters()),
            "seed": self.experiment.switches.seed,
            "split_fingerprint": self.data.split_fingerprint,
            "overrides": self.overrides,
            "command": environment.command(self.overrides),
            "versions": environment.versions(),
            "git_commit": environment.git_commit(),
            "hardware": environment.hardware(self.trainer.strategy.root_device),
        }
        return result if error is None else result | {"error": f"{type(error).__name__}: {error}"}

    def _best_metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = read_checkpoint(self.folder.best)["metrics"] if self.folder.best.exists() else {}
        return metrics

    def outcome(self) -> Outcome:
        best = self.recorder.selection.best
        return Outcome(self.folder.path, self.result, self.experiment.monitor.worst if best is None else best.value)


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
