"""``hydra/sweeper=optuna``: chooses the jobs of a sweep in rounds, from the results of earlier rounds.

Hydra imports this module at every start, so Optuna is imported only when a search begins. Any launcher can run the
jobs.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from digitlab.config.fingerprint import fingerprint
from digitlab.core.errors import ConfigError
from digitlab.sweeps.job_composer import compose_job
from digitlab.sweeps.jobs import Grid, sweep_overrides

if TYPE_CHECKING:
    from digitlab.sweeps.search.space import Space
    from digitlab.sweeps.search.study import Study


class OptunaSweeper(Sweeper):
    """Runs the search that ``hydra.sweeper`` describes; ``digitlab.sweeps.search`` checks its settings."""

    def __init__(self, **settings: Any) -> None:
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Ask for trials, run them and store their results until all are done; a failed job does not stop the search.

        Raises ``ConfigError`` if the stored study is about something else or its database can't be opened.
        """
        from digitlab.sweeps.search.settings import search_plan
        from digitlab.sweeps.search.shared_study import SharedStudy
        from digitlab.sweeps.search.study import Study

        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        folder = Path(self.config.hydra.sweep.dir)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        # ``preflight`` has checked the same plan, but Hydra offers no way to pass it on.
        plan = search_plan(self.config, loader, Grid(loader, sweep_overrides(self.config)))
        assert plan is not None
        # The fixed part identifies the search when it resumes; the searched keys differ between trials anyway.
        space, base = plan.space, self._compose(plan.space.fixed())
        kind = Study if plan.settings.storage is None else SharedStudy
        study = kind(folder, plan, fingerprint=fingerprint(base), metric=str(base.monitor.metric))
        try:
            return self._search(study, space, plan.round_size(self._runs_at_once(space.example())))
        finally:
            # Also after a signal: other processes take over the trials that this one leaves.
            study.close()

    def _search(self, study: Study, space: Space, size: int) -> list[Sequence[JobReturn]]:
        returns: list[Sequence[JobReturn]] = []
        while trials := study.round(size):
            jobs = {number: space.jobs(chosen) for number, chosen in trials.items()}
            # Job numbers continue after those of earlier rounds, which may be from an earlier command.
            done = self._launch([job for own in jobs.values() for job in own], study.ended * space.replicates)
            for number, own in jobs.items():
                # Stored per trial right after its round, so a kill later on costs at most one round of results.
                study.tell(number, _mean([done[tuple(job)] for job in own]))
            returns.append(list(done.values()))
        return returns

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> dict[tuple[str, ...], JobReturn]:
        """Run the jobs and return their outcomes by job. A search may ask for a job twice; it runs once."""
        assert self.launcher is not None
        # Two jobs with one configuration would share a run folder and write into it at the same time.
        distinct = list(dict.fromkeys(map(tuple, jobs)))
        done = self.launcher.launch([list(job) for job in distinct], initial_job_idx=first)
        return dict(zip(distinct, done, strict=True))

    def _runs_at_once(self, example: Sequence[str]) -> int:
        """The number of runs that the launcher trains at the same time, estimated for the job ``example``."""
        assert self.config is not None
        launcher = self.config.hydra.launcher
        # A round smaller than a population would leave members unused.
        if "max_members" in launcher:
            most = launcher.max_members
            return most if isinstance(most, int) else self._members(example)
        processes = launcher.get("n_jobs", 1)
        return processes if isinstance(processes, int) else os.cpu_count() or 1

    def _members(self, example: Sequence[str]) -> int:
        from digitlab.population.grouping import preferred_members
        from digitlab.training.experiment import Experiment

        try:
            return preferred_members(Experiment.from_config(self._compose(example), typed=example))
        except ConfigError:
            return 1  # the user sees this error when the trial itself runs

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        assert self.config is not None
        assert self.hydra_context is not None
        return compose_job(self.hydra_context.config_loader, self.config.hydra.job.config_name, overrides)


def _mean(replicates: Sequence[JobReturn]) -> float | None:
    """The mean monitored value of a trial; None if a run failed, because the mean of the others favours the setting."""
    if any(done.status != JobStatus.COMPLETED for done in replicates):
        return None
    return statistics.fmean(done.return_value for done in replicates)
