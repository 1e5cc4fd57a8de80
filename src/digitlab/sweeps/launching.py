"""What the launchers of ``hydra_plugins`` have in common: jobs composed, run and announced by Hydra."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from digitlab.config.cli_errors import command_line_overrides
from digitlab.sweeps.job_failures import report_failure
from digitlab.sweeps.manifest import add_jobs, names_runs, run_overrides


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job of the sweep: its number in the command, its overrides, and the configuration they compose to."""

    number: int
    overrides: Sequence[str]
    config: DictConfig


class BriefReturn(JobReturn):
    """What a job came to, without its configurations, of which a sweep has many.

    A failure is raised as it is: it was told when it happened, and Hydra's own class would print a line of it again.
    """

    @property
    def return_value(self) -> Any:
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def brief(done: JobReturn) -> BriefReturn:
    return BriefReturn(overrides=done.overrides, status=done.status, _return_value=done._return_value)


class RememberingLoader(ConfigLoaderImpl):
    """Composes each job once: the sweeper does so to see that it can be, and its launcher takes what came out."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = super().load_sweep_config(master_config, sweep_overrides)
        self._composed[tuple(sweep_overrides)] = config
        return config

    def take_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """What was composed before, which is forgotten here, or else is composed now."""
        known = self._composed.pop(tuple(sweep_overrides), None)
        return super().load_sweep_config(master_config, sweep_overrides) if known is None else known


class JobLauncher(BasicLauncher):
    """A launcher whose jobs are not run one by one: ``launch`` is left to say how."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # The sweeper, whose context this is, has not composed any job yet.
        self._loader = RememberingLoader(hydra_context.config_loader.get_search_path())
        hydra_context.config_loader = self._loader
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def prepare(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Prepared]:
        """The composed jobs, which are in the sweep's manifest then; Hydra's logging is as it is between jobs."""
        setup_globals()
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [
            Prepared(number, overrides, self._numbered(number, overrides))
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        if names_runs(self.config.hydra.sweep):
            path = Path(str(self.config.hydra.sweep.dir))
            add_jobs(path, ((job.config, run_overrides(command_line_overrides(job.config.hydra))) for job in jobs))
        return jobs

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job, with its node ``hydra``."""
        assert self.config is not None
        return self._loader.take_sweep_config(self.config, list(overrides))

    def _numbered(self, number: int, overrides: Sequence[str]) -> DictConfig:
        config = self.compose(overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def run(self, config: DictConfig, task: TaskFunction) -> JobReturn:
        """As Hydra runs a job, but that its callbacks do not hear of it before it has come to its end."""
        return self._run(config, task, Callbacks())

    def run_alone(self, config: DictConfig) -> JobReturn:
        """As Hydra runs a job."""
        assert self.hydra_context is not None
        assert self.task_function is not None
        return self._run(config, self.task_function, self.hydra_context.callbacks)

    def _run(self, config: DictConfig, task: TaskFunction, callbacks: Callbacks) -> JobReturn:
        assert self.hydra_context is not None
        assert self.config is not None
        done = run_job(
            hydra_context=HydraContext(config_loader=self.hydra_context.config_loader, callbacks=callbacks),
            task_function=task, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return done

    def announce(self, config: DictConfig, done: JobReturn) -> None:
        """Tell Hydra's callbacks of a job that has ended."""
        assert self.hydra_context is not None
        assert self.task_function is not None
        self.hydra_context.callbacks.on_job_start(config=config, task_function=self.task_function)
        self.hydra_context.callbacks.on_job_end(config=config, job_return=done)


def failing(error: Exception) -> TaskFunction:
    """A task that ends as one does that ``error`` met."""

    def fail(config: DictConfig) -> None:
        with report_failure():
            raise error

    return fail
