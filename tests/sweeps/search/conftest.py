"""Plans of searches, made as from the command line."""

from collections.abc import Callable, Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from digitlab.api import resolvers
from digitlab.config.compose import CONF, register_resolvers
from digitlab.sweeps.jobs import Grid, sweep_overrides
from digitlab.sweeps.search.settings import SearchPlan, search_plan


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    register_resolvers()
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def plan(loader: ConfigLoader) -> Callable[..., SearchPlan | None]:
    """``plan("optimizer.lr=interval(0,1)", ...)`` is the plan of ``-m hydra/sweeper=optuna`` with these overrides."""

    def make(*overrides: str, sweeper: str = "optuna") -> SearchPlan | None:
        typed = [f"hydra/sweeper={sweeper}", *overrides]
        config = loader.load_configuration("train", typed, run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False)
        return search_plan(config, loader, Grid(loader, sweep_overrides(config)))

    return make
