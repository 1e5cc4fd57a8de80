"""The jobs that a command will run, compared with those of Hydra's own sweeper."""

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from digitlab.config.compose import CONF, register_resolvers
from digitlab.core.errors import ConfigError
from digitlab.sweeps.jobs import Grid


@pytest.fixture
def loader():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=0.1,0.01", "seed=range(3)", "model=mlp"],
        ["model=mlp,linear", "model.hidden=[64],[32,32]"],
        ["optimizer=sgd,adam", "optimizer=adagrad", "+x=a,b"],
        ["data.batch_size=choice(10,20)", "seed=5"],
        [],
    ],
)
def test_jobs_equal_those_of_hydra(overrides, loader):
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    assert Grid(loader, overrides).jobs() == BasicSweeper.split_arguments(parsed, None)[0]


def test_combinations_vary_only_config_groups(loader):
    combinations = Grid(loader, ["model=mlp,linear", "optimizer.lr=0.1,0.01", "seed=0,1"]).group_combinations()
    assert combinations == [["model=mlp", "optimizer.lr=0.1", "seed=0"], ["model=linear", "optimizer.lr=0.1", "seed=0"]]


@pytest.mark.parametrize("override", ["seed=0,1,0", "optimizer.lr=0.1,1e-1", "model=mlp,mlp"])
def test_a_repeated_value_is_refused(override, loader):
    with pytest.raises(ConfigError, match="twice") as caught:
        Grid(loader, [override])
    assert caught.value.key == override.partition("=")[0]


def test_a_key_with_an_interval_counts_as_searched(loader):
    grid = Grid(loader, ["optimizer.lr=interval(0.001,0.1)", "seed=0"])
    assert grid.searched == ["optimizer.lr"]
    assert grid.keys == ["optimizer.lr"]
