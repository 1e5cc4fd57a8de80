"""``hydra/launcher=vectorized``: trains the jobs of a sweep that differ only in numbers together, as populations.

Hydra imports this module at every start, so nothing here imports torch before jobs run. Folders, configurations, logs
and job returns are Hydra's own: when Hydra runs a job, the job only registers for a population.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from digitlab.config.cli_errors import command_line_overrides
from digitlab.core.errors import ConfigError
from digitlab.core.exit import exit_with
from digitlab.results.folder import RunFolder
from digitlab.sweeps.job_failures import SweepError
from digitlab.sweeps.launching import JobLauncher, PreparedJob, failing_task, slim_return
from digitlab.sweeps.manifest import run_overrides
from digitlab.sweeps.resume import finished_value
from digitlab.sweeps.workers.launcher import WorkersLauncher
from digitlab.sweeps.workers.pools import Pool

if TYPE_CHECKING:
    from digitlab.population.job import Job


class VectorizedLauncher(JobLauncher):
    """Trains populations of at most ``max_members`` runs; ``auto`` chooses the number by memory and cache.

    A job that fits no population runs as with ``hydra/launcher=basic``. If ``over`` names one of ``launchers``, each
    population and each remaining job becomes one job of that launcher.
    """

    def __init__(self, max_members: int | str = "auto", over: str | None = None, **launchers: WorkersLauncher) -> None:
        super().__init__()
        self.max_members, self.over, self._launchers = max_members, over, launchers

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; the returns are in the order of ``job_overrides``.

        Raises ``ConfigError`` if ``max_members`` is neither ``auto`` nor a count, or if ``over`` can't be used.
        """
        most, pool = self._max_members(), self._pool()
        prepared = {job.number: job for job in self.prepare(job_overrides, initial_job_idx)}
        jobs: list[Job] = []
        # Hydra creates all folders first. Only then is it known which jobs are left and which of them fit together.
        registered = {number: self._register(job, jobs) for number, job in prepared.items()}
        waiting = {job.number for job in jobs}
        returns = {number: done for number, done in registered.items() if number not in waiting and _ended(done)}
        populations = [
            population for population in _populations(jobs, most) if len(population) > 1 or population[0].cohort_members
        ]
        if pool is not None:
            returns |= self._run_in_pool(
                pool, populations, [job for number, job in prepared.items() if number not in returns]
            )
        for population in populations if pool is None else []:
            for member, error in _train(population):
                number = member.number
                if error is None:
                    registered[number].return_value = finished_value(member.folder.path)
                    returns[number] = registered[number]
                else:
                    returns[number] = self.run(prepared[number].config, failing_task(error))
        for number, job in prepared.items():
            # Jobs in a population have ended; the others are those that train alone or that failed to register.
            if number in returns:
                self.announce(job.config, returns[number])
            else:
                returns[number] = self.run_with_callbacks(job.config)
        return [slim_return(returns[number]) for number in prepared]

    def _max_members(self) -> int | None:
        most = self.max_members
        if most == "auto":
            return None
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ConfigError("hydra.launcher.max_members", most, "must be auto, or a whole number of 1 or more")
        return most

    def _pool(self) -> Pool | None:
        if self.over is None:
            return None
        if self.over not in self._launchers:
            raise ConfigError("hydra.launcher.over", self.over, f"must be null, or one of {', '.join(self._launchers)}")
        outer = self._launchers[self.over]
        assert self.hydra_context is not None
        assert self.task_function is not None
        assert self.config is not None
        outer.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        return outer.pool(under=f"hydra.launcher.{self.over}")

    def _run_in_pool(
        self, pool: Pool, populations: Sequence[Sequence[Job]], left: Sequence[PreparedJob]
    ) -> dict[int, JobReturn]:
        """The returns of all unfinished jobs, from processes that each train one population or one job."""
        assert self.over is not None
        by_number = {job.number: job for job in left}
        groups = [[by_number.pop(job.number) for job in population] for population in populations]
        groups += [[job] for job in by_number.values()]
        spread = self._launchers[self.over].run_groups(groups, pool, VectorizedLauncher(self.max_members))
        return {job.number: done for job, done in spread}

    def _register(self, job: PreparedJob, jobs: list[Job]) -> JobReturn:
        """Let Hydra create the folder of a job, and add the job to ``jobs`` unless its run has finished before."""

        def register(task_config: DictConfig) -> float | None:
            folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
            value = finished_value(folder.path)
            if value is None:
                jobs.append(_job(job.number, task_config, folder))
            return value

        return self.run(job.config, register)


def _ended(done: JobReturn) -> bool:
    """Whether a registered job is done. A job that failed here runs alone, so that it fails as a solo run does.

    The exception is a job whose folder can't be written: ``JobLauncher.run`` has reported its failure already.
    """
    return done.status == JobStatus.COMPLETED or isinstance(done._return_value, SweepError)


def _job(number: int, config: DictConfig, folder: RunFolder) -> Job:
    """The job of a run folder. If this raises ``ConfigError`` or ``RunError``, the job runs alone and fails there."""
    from digitlab.population.job import read_job

    return read_job(number, config, folder, overrides=run_overrides(command_line_overrides()))


def _populations(jobs: Sequence[Job], most: int | None) -> list[list[Job]]:
    if not jobs:
        return []
    from digitlab.population.grouping import populations

    return populations(jobs, max_members=most)


def _train(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Train a population; return each job with the error that ended it, or None. A signal ends the process."""
    from digitlab.core.signals import Interrupted
    from digitlab.population.train import train_together

    try:
        return train_together(jobs)
    except Interrupted as stop:
        exit_with(stop)
