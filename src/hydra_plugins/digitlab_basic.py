"""``hydra/launcher=basic``: the jobs of a sweep one by one in the command's process, as by Hydra's own of that name.

Hydra imports this at every start, after its own launchers: of two of one name the later one stands.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher, BasicLauncherConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn

from digitlab.sweeps.launching import brief

ConfigStore.instance().store(
    group="hydra/launcher", name="basic", provider="digitlab",
    node=BasicLauncherConf(_target_="hydra_plugins.digitlab_basic.OneByOneLauncher"),
)  # fmt: skip


class OneByOneLauncher(BasicLauncher):
    """Keeps of each job no more than what it came to, however many there are."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; their returns come in the order of ``job_overrides``."""
        returns: list[JobReturn] = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            returns += [brief(done) for done in super().launch([overrides], number)]
        return returns
