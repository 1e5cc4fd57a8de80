"""Successive halving: its epochs, the settings that leave, and when it is refused."""

import pytest
from omegaconf import OmegaConf

from digitlab.core.errors import ConfigError
from digitlab.population.halving import (
    default_epochs,
    halving_epochs,
    refuse_alone,
    score_of_ended_run,
    setting_of,
    worse_half,
)
from digitlab.sweeps.settings import sweep_settings

DEFAULT = {
    "name": None,
    "fresh": False,
    "dry_run": False,
    "halving": True,
    "halving_epochs": None,
    "allow_divergence": False,
}


@pytest.mark.parametrize(
    ("max_epochs", "epochs"), [(1, []), (2, [1]), (3, [1]), (5, [1, 2]), (10, [1, 2, 5]), (64, [1, 2, 4, 8, 16, 32])]
)
def test_the_default_doubles_the_epochs_from_one_halving_to_the_next(max_epochs, epochs):
    assert default_epochs(max_epochs) == epochs


@pytest.mark.parametrize("count", range(1, 10))
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_worse_half_of_the_settings_leaves(count, mode):
    values = {(str(number),): [(number * 7) % 10, 5.0] for number in range(count)}
    worse = worse_half(values, mode)
    assert len(worse) == count // 2
    means = {setting: sum(own) / 2 for setting, own in values.items()}
    stay = [means[setting] for setting in values if setting not in worse]
    for setting in worse:
        assert means[setting] <= min(stay) if mode == "max" else means[setting] >= max(stay)


def test_replicates_leave_together_by_their_mean():
    assert setting_of(["seed=0", "optimizer.lr=0.1"]) == setting_of(["optimizer.lr=0.1", "++seed=1"])
    assert setting_of(["data.fold=0", "data.split_seed=1", "optimizer.lr=0.1"]) == ("optimizer.lr=0.1",)
    assert worse_half({("a",): [0.9, 0.1], ("b",): [0.6, 0.6]}, "max") == {("a",)}


def test_a_setting_with_a_failed_member_leaves_first():
    assert worse_half({("a",): [0.9, float("-inf")], ("b",): [0.1, 0.1]}, "max") == {("a",)}


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ({}, 0.9),
        ({"status": "failed"}, -1.0),
        ({"status": "stopped"}, None),
        ({"epochs": 3}, None),
        ({"halved_after_epoch": 1}, None),
    ],
    ids=["finished", "failed", "stopped", "later", "halved"],
)
def test_an_ended_run_counts_if_it_had_ended_by_that_epoch(written_sweep, finished, changed, value):
    overrides = ["seed=1", "optimizer.lr=0.1"]
    (run,) = written_sweep((overrides, finished(0.9) | {"overrides": overrides} | changed))
    expected = None if value is None else (("optimizer.lr=0.1",), value)
    assert score_of_ended_run(run.folder, 2, worst=-1.0) == expected


@pytest.mark.parametrize("epochs", [[], [2, 1], [1, 1], [1, 4], [5]])
def test_impossible_halving_epochs_are_refused(epochs):
    with pytest.raises(ConfigError, match="growing order") as caught:
        halving_epochs(epochs, 4)
    assert caught.value.key == "sweep.halving_epochs"


def test_one_epoch_cannot_be_halved():
    with pytest.raises(ConfigError, match="two epochs"):
        halving_epochs(None, 1)


@pytest.mark.parametrize(
    ("launcher", "reason"),
    [({}, "hydra/launcher=vectorized"), ({"max_members": 1}, "set hydra.launcher.max_members to auto")],
)
def test_halving_needs_populations(launcher, reason):
    config = OmegaConf.create({"hydra": {"launcher": launcher}, "trainer": {"max_epochs": 4}})
    with pytest.raises(ConfigError, match=reason) as caught:
        sweep_settings(DEFAULT, []).check_halving(config)
    assert caught.value.key == "sweep.halving"
    sweep_settings(DEFAULT | {"halving": False}, []).check_halving(config)


def test_halving_is_refused_if_all_runs_train_alone_and_single_ones_are_reported():
    messages = []
    refuse_alone([], messages.append)
    refuse_alone([3, 2], messages.append)
    assert not messages
    refuse_alone([3, 1, 1], messages.append)
    assert messages == ["2 runs train alone: nothing is halved there"]
    with pytest.raises(ConfigError, match="max_members=N"):
        refuse_alone([1, 1], messages.append)
