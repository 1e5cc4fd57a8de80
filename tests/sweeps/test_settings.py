"""Bad settings of ``sweep.*`` are refused with the key, the value and what is allowed."""

import pytest

from digitlab.core.errors import ConfigError
from digitlab.sweeps.settings import refuse_without_sweep, sweep_settings

DEFAULT = {
    "name": None,
    "fresh": False,
    "dry_run": False,
    "halving": False,
    "halving_epochs": None,
    "allow_divergence": False,
}


def test_the_defaults_are_valid():
    assert sweep_settings(DEFAULT, []).name is None
    assert sweep_settings(DEFAULT | {"name": "lr_0.1,seed=3"}, ["hydra/launcher=basic"]).name == "lr_0.1,seed=3"


@pytest.mark.parametrize(
    ("node", "key"),
    [
        *(({"name": name}, "sweep.name") for name in ("a/b", "..", "", "a b", ".a", "a" * 101, 3, True)),
        ({"fresh": 1}, "sweep.fresh"),
        ({"dry_run": "yes"}, "sweep.dry_run"),
        ({"halfing": True}, "sweep.halfing"),
        ({"halving": "yes"}, "sweep.halving"),
        ({"halving_epochs": [2, 4]}, "sweep.halving_epochs"),
        ({"allow_divergence": "yes"}, "sweep.allow_divergence"),
        ({"halving": True, "halving_epochs": [0]}, "sweep.halving_epochs"),
    ],
)
def test_a_bad_setting_is_refused(node, key):
    with pytest.raises(ConfigError) as caught:
        sweep_settings(DEFAULT | node, [])
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("node", "typed"),
    [
        ({}, "hydra.sweep.subdir=x"),
        ({}, "++hydra.sweep.subdir=x"),
        ({}, "hydra.sweeper.max_batch_size=2"),
        ({"name": "mine"}, "hydra.sweep.dir=/elsewhere"),
        ({"fresh": True}, "hydra.sweep.dir=/elsewhere"),
    ],
)
def test_hydra_settings_that_conflict_with_the_sweep_are_refused(node, typed):
    with pytest.raises(ConfigError) as caught:
        sweep_settings(DEFAULT | node, [typed])
    assert f"{caught.value.key}={caught.value.value}" == typed.lstrip("+")


def test_a_single_run_refuses_settings_of_a_sweep():
    refuse_without_sweep(["seed=1", "sweep=five_factors", "+sweeping=1"])
    for override in ("sweep.name=mine", "++sweep.name=mine"):
        with pytest.raises(ConfigError, match="add -m") as caught:
            refuse_without_sweep(["seed=1", override])
        assert (caught.value.key, caught.value.value) == ("sweep.name", "mine")
