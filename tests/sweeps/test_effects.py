"""The effect of each value against differences computed by hand and SciPy's paired t interval."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from digitlab.sweeps.effects import Observation, in_order, value_effects

LRS, DROPOUTS, SEEDS = (0.001, 0.01, 0.1), (0.0, 0.5), (0, 1)


def accuracy(lr, dropout, seed):
    """The learning rate matters much, dropout little, the seed a little less."""
    return 0.9 + math.log10(lr) / 50 - 0.004 * dropout - 0.001 * seed - 0.0005 * (seed + 1) * (lr > 0.05) * dropout


def grid(measure=accuracy):
    return [
        Observation({"lr": lr, "dropout": dropout}, (seed,), measure(lr, dropout, seed))
        for lr, dropout, seed in itertools.product(LRS, DROPOUTS, SEEDS)
    ]


def test_a_difference_is_paired_so_that_other_factors_do_not_widen_its_interval():
    best, other = value_effects(grid(), "dropout", direction="max")
    # The learning rates share the luck of a seed, so each seed has one difference.
    differences = [np.mean([accuracy(lr, 0.5, seed) - accuracy(lr, 0.0, seed) for lr in LRS]) for seed in SEEDS]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (best.value, best.is_reference, best.difference) == (0.0, True, None)
    assert other.difference.count == len(SEEDS)
    assert other.difference.mean == pytest.approx(np.mean(differences))
    assert other.difference.interval == pytest.approx(tuple(expected))
    # The runs with dropout 0 differ by 0.04 because of the learning rate; the paired interval is far narrower.
    assert expected.high - expected.low < 0.004


def test_with_one_seed_the_other_settings_are_the_pairs():
    alone = [each for each in grid() if each.replicate == (0,)]
    assert value_effects(alone, "dropout", direction="max")[1].difference.count == len(LRS)


def test_runs_that_halving_ended_are_paired_with_runs_that_ended_with_them():
    observations = [
        Observation({"lr": 0.1}, (0,), 0.9),
        Observation({"lr": 0.2}, (0,), 0.5, 1),
        Observation({"lr": 0.3}, (0,), 0.4, 1),
    ]
    effects = value_effects(observations, "lr", direction="max")
    assert [effect.difference and effect.difference.mean for effect in effects] == [None, None, pytest.approx(-0.1)]


def test_the_mean_of_a_value_is_over_all_its_runs():
    for effect in value_effects(grid(), "lr", direction="max"):
        runs = [accuracy(effect.value, dropout, seed) for dropout in DROPOUTS for seed in SEEDS]
        assert effect.summary.mean == pytest.approx(np.mean(runs))
        assert effect.summary.count == len(runs)


@pytest.mark.parametrize(("direction", "reference"), [("max", 0.1), ("min", 0.001)])
def test_the_reference_is_the_best_value(direction, reference):
    effects = value_effects(grid(), "lr", direction=direction)
    assert [effect.value for effect in effects if effect.is_reference] == [reference]


def test_runs_are_paired_only_with_the_same_seed_and_the_same_other_settings():
    observations = [
        Observation({"lr": 0.1, "dropout": 0}, (0,), 0.9),
        Observation({"lr": 0.2, "dropout": 0}, (1,), 0.8),
        Observation({"lr": 0.2, "dropout": 0.5}, (0,), 0.7),
    ]
    assert all(effect.difference is None for effect in value_effects(observations, "lr", direction="max"))
    observations.append(Observation({"lr": 0.2, "dropout": 0}, (0,), 0.85))
    _, second = value_effects(observations, "lr", direction="max")
    assert second.difference.count == 1
    assert second.difference.mean == pytest.approx(-0.05)
    assert second.difference.interval is None


def test_the_reference_is_chosen_where_all_values_were_measured():
    """A value measured only in a good setting has a high mean; the complete block shows that it is worse."""
    observations = [
        Observation({"optimizer": "sgd", "lr": 0.1}, (0,), 0.5),
        Observation({"optimizer": "adam", "lr": 0.1}, (0,), 0.4),
        Observation({"optimizer": "adam", "lr": 0.2}, (0,), 0.9),
    ]
    sgd, adam = value_effects(observations, "optimizer", direction="max")
    assert sgd.is_reference
    assert adam.summary.mean > sgd.summary.mean
    assert adam.difference.mean == pytest.approx(-0.1)


def test_a_diverged_run_gives_no_difference():
    observations = grid(lambda lr, dropout, seed: -math.inf if dropout and not seed else accuracy(lr, dropout, seed))
    _, other = value_effects(observations, "dropout", direction="max")
    assert other.difference.count == len(LRS)
    assert math.isfinite(other.difference.mean)


def test_a_search_gets_quantile_bins_that_hold_each_setting_once():
    rates = [round(0.001 * number, 3) for number in range(1, 21)]
    observations = [
        Observation({"lr": rate, "dropout": rate * 2}, (seed,), rate + seed / 10) for rate in rates for seed in SEEDS
    ]
    effects = value_effects(observations, "lr", direction="max")
    assert [effect.label for effect in effects] == [
        "0.001 to 0.004", "0.005 to 0.008", "0.009 to 0.012", "0.013 to 0.016", "0.017 to 0.02",
    ]  # fmt: skip
    assert [effect.summary.count for effect in effects] == [4] * 5
    assert [effect.summary.mean for effect in effects] == pytest.approx([0.0525, 0.0565, 0.0605, 0.0645, 0.0685])
    assert all(effect.difference is None for effect in effects)


@pytest.mark.parametrize(("count", "bins"), [(8, 8), (9, 3), (16, 4), (50, 5)])
def test_a_search_has_three_to_five_bins_unless_its_values_are_few(count, bins):
    observations = [Observation({"lr": 0.1 * number, "wd": number}, (), 0.5) for number in range(count)]
    effects = value_effects(observations, "lr", direction="max")
    assert len(effects) == bins
    assert sum(effect.summary.count for effect in effects) == count


def test_numbers_are_ascending_and_words_keep_their_order():
    assert in_order([0.1, "b", 1e-3, "a", 0, "b"]) == [0, 1e-3, 0.1, "b", "a"]
