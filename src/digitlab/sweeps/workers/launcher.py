"""The base class of the launchers that run jobs in other processes: ``joblib``, ``submitit_local``, ``submitit_slurm``.

It finds the jobs whose runs have not finished, runs them in a pool of processes, and handles the outcomes.
"""

import copy
import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, read_write

from digitlab.core.errors import DigitlabError, RunError
from digitlab.core.exit import exit_with
from digitlab.results.folder import RunFolder
from digitlab.sweeps.launching import JobLauncher, PreparedJob, failing_task, slim_return
from digitlab.sweeps.resume import finished_value
from digitlab.sweeps.workers.dispatch import run_jobs
from digitlab.sweeps.workers.job_batch import JobBatch
from digitlab.sweeps.workers.pools import Pool

log = logging.getLogger(__name__)


class WorkersLauncher(JobLauncher):
    """Runs each job in another process. For the launcher ``vectorized``, ``run_groups`` runs a population in each."""

    @abstractmethod
    def pool(self, *, under: str = "hydra.launcher") -> Pool:
        """Return the pool of processes.

        Raises ``ConfigError`` if a setting below the key ``under`` is invalid, or if a library is not installed.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; the returns are in the order of ``job_overrides``. Raises what ``pool`` raises."""
        pool = self.pool()
        jobs = self.prepare(job_overrides, initial_job_idx)
        returns: dict[int, JobReturn] = {}
        unfinished = []
        for job in jobs:
            # Hydra also creates the run folder here. A finished run needs no process and no place in the queue.
            job_return = self.run(job.config, lambda _: finished_value(_current_run_folder()))
            if job_return.status == JobStatus.COMPLETED and job_return.return_value is None:
                unfinished.append([job])
            else:
                self.announce(job.config, job_return)
                returns[job.number] = job_return
        for job, job_return in self.run_groups(unfinished, pool, BasicLauncher()):
            self.announce(job.config, job_return)
            returns[job.number] = job_return
        return [slim_return(returns[job.number]) for job in jobs]

    def run_groups(
        self, groups: Iterable[Sequence[PreparedJob]], pool: Pool, launcher: BasicLauncher
    ) -> Iterator[tuple[PreparedJob, JobReturn]]:
        """Run each group of jobs in one process; yield each job with its return when its group ends.

        In the other process, ``launcher`` runs the jobs. After a signal, ends this process when all runs are saved.
        """
        from digitlab.core.signals import Interrupted

        jobs = {job.number: job for group in groups for job in group}
        batches = self._job_batches(groups, launcher)
        try:
            for batch, outcome in run_jobs(batches, pool):
                if isinstance(outcome, RunError):
                    # If a process dies, none of its jobs has a return, but some of the runs may have finished before.
                    returns = [self._return_without_result(jobs[number].config, outcome) for number in batch.numbers]
                else:
                    returns = list(outcome)
                    if not pool.shares_terminal:
                        _log_failures(returns)
                yield from zip((jobs[number] for number in batch.numbers), returns, strict=True)
        except Interrupted as stop:
            # If the exception left this method, Hydra would print a traceback.
            exit_with(stop)

    def _job_batches(self, groups: Iterable[Sequence[PreparedJob]], launcher: BasicLauncher) -> list[JobBatch]:
        """Return a batch for each group; in the other process, ``launcher`` runs its jobs."""
        assert self.hydra_context is not None
        assert self.task_function is not None
        # A copy, because the change below is only for the other processes.
        config = copy.deepcopy(self.config)
        assert config is not None
        with read_write(config.hydra.sweep):
            # This replaces the interpolation by its value. Another process might resolve it differently, for example
            # with ``sweep.fresh``, which starts a new folder.
            config.hydra.sweep.dir = str(config.hydra.sweep.dir)
        launcher.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=config)
        # This comes after ``setup``, so that the other process gets Hydra's global objects as they are before a job.
        state = Singleton.get_state()
        return [
            JobBatch(
                numbers=[job.number for job in group],
                overrides=[job.overrides for job in group],
                folders=[_folder(job.config) for job in group],
                launcher=launcher,
                state=state,
            )
            for group in groups
        ]

    def _return_without_result(self, config: DictConfig, error: RunError) -> JobReturn:
        """Return the outcome of a job whose process died with ``error``. The run may have finished before."""

        def find_outcome(task_config: DictConfig) -> float | None:
            folder = _current_run_folder()
            value = finished_value(folder)
            if value is None:
                # ``failing_task`` writes no result if there is one, so that of an earlier attempt would hide this
                # failure.
                RunFolder(folder).result.unlink(missing_ok=True)
                failing_task(error)(task_config)
            return value

        return self.run(config, find_outcome)


def _current_run_folder() -> Path:
    """Return the run folder of the job that Hydra is running in this process."""
    return Path(HydraConfig.get().runtime.output_dir)


def _folder(config: DictConfig) -> Path:
    """Return the run folder of a job. Hydra has set it, because ``launch`` has run the job once in this process."""
    return Path(config.hydra.runtime.output_dir)


def _log_failures(returns: Iterable[JobReturn]) -> None:
    """Log failures that were reported in another process, where the user does not see them."""
    for job_return in returns:
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            # The message of digitlab's own errors says what is wrong. Any other error is a bug, so its traceback helps.
            log.error("%s", error, exc_info=None if isinstance(error, DigitlabError) else error)
