"""``JobLauncher``, the base class of all launchers in ``hydra_plugins``: it composes, lists and runs jobs of a sweep.

The list is the manifest, a file in the sweep's folder that assigns each run its folder. ``JobLauncher`` runs jobs with
Hydra's own ``run_job``, so folders, logs and callbacks are the same for all launchers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from digitlab.config.cli_errors import command_line_overrides
from digitlab.core.files import disk_faults
from digitlab.sweeps.job_failures import SweepError, report_failure
from digitlab.sweeps.manifest import add_jobs, names_runs, run_overrides


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A composed job of the sweep: its number within the command, its overrides and its configuration."""

    number: int
    overrides: Sequence[str]
    config: DictConfig


class SlimReturn(JobReturn):
    """The outcome of a job without its configurations, because thousands of them would fill the memory.

    Reading the value of a failed job raises its error unchanged. Hydra's own class would also print the error, which
    the user saw already when the job failed.
    """

    @property
    def return_value(self) -> Any:
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def slim_return(job_return: JobReturn) -> SlimReturn:
    return SlimReturn(overrides=job_return.overrides, status=job_return.status, _return_value=job_return._return_value)


class CachingLoader(ConfigLoaderImpl):
    """Composes each job only once.

    Hydra's sweeper composes all jobs to check them, and the launcher reuses these configurations.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    # Hydra's sweeper calls this for every job before the launcher gets the list.
    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = super().load_sweep_config(master_config, sweep_overrides)
        self._composed[tuple(sweep_overrides)] = config
        return config

    def pop_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return the configuration from the cache and remove it there; compose it if it is not in the cache."""
        # It is removed because thousands of configurations would fill the memory. The launcher needs each only once.
        cached = self._composed.pop(tuple(sweep_overrides), None)
        return super().load_sweep_config(master_config, sweep_overrides) if cached is None else cached


class JobLauncher(BasicLauncher):
    """The base class of digitlab's launchers. Each subclass has its own ``launch``, which Hydra calls with the jobs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # Hydra calls this before its sweeper composes the jobs, so the sweeper already uses this loader.
        self._loader = CachingLoader(hydra_context.config_loader.get_search_path())
        hydra_context.config_loader = self._loader
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def prepare(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[PreparedJob]:
        """Compose the jobs, add them to the sweep's manifest, and set up the logging of the command.

        The launcher ``basic`` prepares one job at a time, all others prepare the whole sweep at once.
        """
        # Hydra's own launcher makes these calls too, before its first job.
        setup_globals()
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [
            PreparedJob(number, overrides, self._numbered(number, overrides))
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        # A job must be in the manifest before it runs: its folder, ``hydra.sweep.subdir``, is looked up there. If the
        # user typed another ``hydra.sweep.subdir``, the manifest is not used.
        if names_runs(self.config.hydra.sweep):
            path = Path(str(self.config.hydra.sweep.dir))
            add_jobs(path, ((job.config, run_overrides(command_line_overrides(job.config.hydra))) for job in jobs))
        return jobs

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of a job, with its node ``hydra``."""
        assert self.config is not None
        return self._loader.pop_sweep_config(self.config, list(overrides))

    def _numbered(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """Compose a job and put its number into the configuration."""
        config = self.compose(overrides)
        with open_dict(config):
            # Hydra's own launcher sets these too. The names of folders and logs contain them.
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def run(self, config: DictConfig, task: TaskFunction) -> JobReturn:
        """Run ``task`` as a job of Hydra, but without telling Hydra's callbacks; ``announce`` does that afterwards.

        Launchers also use this to create the folder of a job, to check whether its run has finished, or to report an
        error, with other tasks than training.
        """
        return self._run(config, task, Callbacks())

    def run_with_callbacks(self, config: DictConfig) -> JobReturn:
        """Run a job exactly as Hydra does."""
        assert self.hydra_context is not None
        assert self.task_function is not None
        return self._run(config, self.task_function, self.hydra_context.callbacks)

    def _run(self, config: DictConfig, task: TaskFunction, callbacks: Callbacks) -> JobReturn:
        """Run ``task`` as a job of Hydra, which creates its folder and tells ``callbacks``; return its outcome."""
        assert self.hydra_context is not None
        assert self.config is not None
        try:
            job_return = run_job(
                hydra_context=HydraContext(config_loader=self.hydra_context.config_loader, callbacks=callbacks),
                task_function=task, config=config,
                job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
            )  # fmt: skip
        except OSError as error:
            # ``run_job`` returns the errors of the task, so this one comes from the folder of the job or Hydra's files
            # in it. The other jobs have folders of their own and continue.
            job_return = _failed_before_start(config, error)
        # The job has set up its own logging; this sets up that of the command again.
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return job_return

    def announce(self, config: DictConfig, job_return: JobReturn) -> None:
        """Tell Hydra's callbacks about a job that has ended."""
        assert self.hydra_context is not None
        assert self.task_function is not None
        # Callbacks expect the start and then the end of each job, one job after another. Jobs of a population and jobs
        # in other processes overlap, so both calls are made when the job has ended.
        self.hydra_context.callbacks.on_job_start(config=config, task_function=self.task_function)
        self.hydra_context.callbacks.on_job_end(config=config, job_return=job_return)


def _failed_before_start(config: DictConfig, error: OSError) -> JobReturn:
    """Report the failure of a job whose folder can't be made or written, and return its outcome, a ``SweepError``."""
    # ``run_job`` has restored the configuration of the command.
    command_config = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        with report_failure(), disk_faults(config.hydra.runtime.output_dir):
            raise error
    except SweepError as failure:
        overrides = command_line_overrides(config.hydra)
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=failure)
    finally:
        HydraConfig.instance().cfg = command_config


def failing_task(error: Exception) -> TaskFunction:
    """Return a task for ``run`` that fails with ``error``, so that the failure is reported and recorded like others."""

    def fail(config: DictConfig) -> None:
        # ``report_failure`` writes the ``result.json`` of the run and shows the message to the user.
        with report_failure():
            raise error

    return fail
