"""``hydra/launcher=basic``: runs the jobs of a sweep one by one in the command's process.

It replaces Hydra's launcher of that name: Hydra imports this module after its own, and the later registration wins.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher, BasicLauncherConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from digitlab.sweeps.launching import JobLauncher, slim_return

ConfigStore.instance().store(
    group="hydra/launcher", name="basic", provider="digitlab",
    node=BasicLauncherConf(_target_="hydra_plugins.digitlab_basic.OneByOneLauncher"),
)  # fmt: skip


class OneByOneLauncher(JobLauncher):
    """Runs one job after another and keeps only the outcome of each, so memory does not grow with their number."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # Use Hydra's own loader: the caching one would keep the configurations of all jobs.
        BasicLauncher.setup(self, hydra_context=hydra_context, task_function=task_function, config=config)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; the returns are in the order of ``job_overrides``."""
        returns: list[JobReturn] = []
        # Prepared one at a time, so that a sweep of thousands of jobs starts at once.
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            returns += [slim_return(self.run_with_callbacks(job.config)) for job in self.prepare([overrides], number)]
        return returns
