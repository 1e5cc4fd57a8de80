"""``hydra/launcher=vectorized``: the jobs of a sweep that differ only in numbers train together, as populations.

Hydra imports this at every start, so nothing here imports torch before jobs are launched. Folders, configurations, logs
and the returns of jobs are Hydra's own: what a job does when Hydra runs it is to register for a population.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from digitlab.failures import leave, told
from digitlab.overrides import typed_overrides
from digitlab.results.folder import RunFolder
from digitlab.schema import ConfigError
from digitlab.sweeps.manifest import run_overrides
from digitlab.sweeps.resume import finished_value

if TYPE_CHECKING:
    from digitlab.sweeps.population.member import Job


class VectorizedLauncher(BasicLauncher):
    """Trains populations of ``max_members`` at most; ``auto`` chooses by memory and cache.

    A job that can't be grouped runs as ``hydra/launcher=basic`` would run it.
    """

    def __init__(self, max_members: int | str = "auto") -> None:
        super().__init__()
        self.max_members = max_members

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; their returns come in the order of ``job_overrides``.

        Raises ``ConfigError`` where ``max_members`` is neither ``auto`` nor a count.
        """
        most = self._max_members()
        setup_globals()
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        overrides = dict(zip(numbers, job_overrides, strict=True))
        configs = {number: self._compose(number, overrides[number]) for number in numbers}
        jobs: list[Job] = []
        registered = {number: self._register(number, configs[number], jobs) for number in numbers}
        waiting = {job.number for job in jobs}
        returns = {number: done for number, done in registered.items() if number not in waiting and _ended(done)}
        for population in _populations(jobs, most):
            if len(population) > 1:
                for job, error in _train(population):
                    number = job.number
                    if error is None:
                        registered[number].return_value = finished_value(job.folder.path)
                        returns[number] = registered[number]
                    else:
                        returns[number] = self._run(configs[number], _failing(error))
        for number in numbers:
            if number in returns:
                self._announce(configs[number], returns[number])
            else:
                returns[number] = super().launch([overrides[number]], number)[0]
        return [returns[number] for number in numbers]

    def _max_members(self) -> int | None:
        most = self.max_members
        if most == "auto":
            return None
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ConfigError("hydra.launcher.max_members", most, "must be auto, or a whole number of 1 or more")
        return most

    def _compose(self, number: int, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _register(self, number: int, config: DictConfig, jobs: list[Job]) -> JobReturn:
        """Have Hydra make the folder of a job, and add the job to ``jobs`` unless its run has finished before."""

        def register(task_config: DictConfig) -> float | None:
            folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
            value = finished_value(folder.path)
            if value is None:
                jobs.append(_job(number, task_config, folder))
            return value

        return self._run(config, register)

    def _run(self, config: DictConfig, task: TaskFunction) -> JobReturn:
        """As Hydra runs a job, but that its callbacks do not hear of it before it has come to its end."""
        assert self.hydra_context is not None
        assert self.config is not None
        done = run_job(
            hydra_context=HydraContext(config_loader=self.hydra_context.config_loader, callbacks=Callbacks()),
            task_function=task, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return done

    def _announce(self, config: DictConfig, done: JobReturn) -> None:
        assert self.hydra_context is not None
        assert self.task_function is not None
        self.hydra_context.callbacks.on_job_start(config=config, task_function=self.task_function)
        self.hydra_context.callbacks.on_job_end(config=config, job_return=done)


def _ended(done: JobReturn) -> bool:
    """Whether a job that is registered has nothing left to do: a refused one is to fail as it would alone."""
    return done.status == JobStatus.COMPLETED


def _failing(error: Exception) -> TaskFunction:
    def fail(config: DictConfig) -> None:
        with told():
            raise error

    return fail


def _job(number: int, config: DictConfig, folder: RunFolder) -> Job:
    """Raises ``ConfigError`` or ``RunError``: then the job runs alone, and is told to have failed as any other."""
    from digitlab.results.checkpoint import newest_good
    from digitlab.sweeps.population.member import Job
    from digitlab.training.experiment import Experiment

    overrides = run_overrides(typed_overrides())
    experiment = Experiment.from_config(config, typed=overrides)
    checkpoint = newest_good(folder, like=experiment.hyper_parameters)
    return Job(
        number=number, config=config, experiment=experiment, folder=folder, overrides=overrides, checkpoint=checkpoint
    )


def _populations(jobs: Sequence[Job], most: int | None) -> list[list[Job]]:
    if not jobs:
        return []
    from digitlab.sweeps.population.grouping import populations

    return populations(jobs, max_members=most)


def _train(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Each job with the error that ended it, or None. Ends the process after a signal."""
    from digitlab.sweeps.population.together import train_together
    from digitlab.training.interrupt import Interrupted

    try:
        return train_together(jobs)
    except Interrupted as stop:
        leave(stop)
