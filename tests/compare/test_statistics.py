"""Intervals and tests equal independent formulas, and show a difference that does not exist in 5 % of the cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables, multitest, weightstats

from digitlab.compare.statistics import (
    detectable_difference,
    holm,
    mcnemar,
    paired_difference,
    unpaired_difference,
)

_A = [0.9712, 0.9734, 0.9698, 0.9751, 0.9722, 0.9709]
_B = [0.9690, 0.9728, 0.9671, 0.9733, 0.9725, 0.9680]


def test_paired_values_equal_those_of_scipy():
    result, reference = paired_difference(_A, _B), stats.ttest_rel(_A, _B)
    assert result.p_value == pytest.approx(reference.pvalue)
    assert result.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert result.mean == pytest.approx(np.mean(_A) - np.mean(_B))
    assert result.effect_size == pytest.approx(reference.statistic / math.sqrt(len(_A)))
    assert (result.count, result.paired) == (6, True)


def test_the_exact_permutation_test_counts_all_signs():
    differences = np.array([0.3, -0.1, 0.25, 0.4])
    signs = np.array(np.meshgrid(*[[1, -1]] * 4)).reshape(4, -1)
    sums = np.abs((signs * differences[:, None]).sum(0))
    expected = (sums >= abs(differences.sum()) - 1e-12).mean()
    assert paired_difference(differences.tolist(), [0.0] * 4).permutation_p_value == pytest.approx(expected)


def test_unpaired_values_equal_welchs():
    result, reference = unpaired_difference(_A, _B[:4]), stats.ttest_ind(_A, _B[:4], equal_var=False)
    assert result.p_value == pytest.approx(reference.pvalue)
    assert result.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_swapping_the_groups_changes_the_sign_alone():
    for compare in (paired_difference, unpaired_difference):
        one, other = compare(_A, _B), compare(_B, _A)
        assert one.mean == -other.mean
        assert one.p_value == pytest.approx(other.p_value)
        assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


def test_one_pair_has_no_interval():
    result = paired_difference([0.5], [0.25])
    assert (result.mean, result.interval, result.p_value) == (0.25, None, None)


@pytest.mark.parametrize("compare", [paired_difference, unpaired_difference])
def test_equal_differences_have_no_effect_size_but_a_p_value(compare):
    same = compare([0.5] * 4, [0.5] * 4)
    assert (same.mean, same.p_value, same.effect_size) == (0.0, 1.0, None)
    better = compare([0.75] * 4, [0.5] * 4)
    assert better.interval == (0.25, 0.25)
    # Four pairs have 16 combinations of signs, two of them as extreme; two groups of four have 70 divisions.
    assert better.p_value == pytest.approx(2 / 16 if compare is paired_difference else 2 / 70)


def test_holm_against_the_example_of_a_textbook():
    # 0.01 is multiplied by 4, 0.03 by 3, 0.04 by 2; the last keeps at least the value before it.
    assert holm([0.04, 0.01, 0.05, 0.03]) == pytest.approx([0.09, 0.04, 0.09, 0.09])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("paired", [True, False])
def test_a_detectable_difference_is_detected_in_four_of_five_simulations(paired):
    generator, count = np.random.default_rng(7), 8
    difference = detectable_difference(count, 0.02, paired=paired)
    groups = generator.normal(0.0, 0.02, (2, 4000, count))
    groups[0] += difference
    if paired:
        p_values = stats.ttest_1samp(groups[0], 0.0, axis=1).pvalue
    else:
        p_values = stats.ttest_ind(groups[0], groups[1], axis=1).pvalue
    assert (p_values < 0.05).mean() == pytest.approx(0.8, abs=0.025)


def planted(count, *, difference=0.004, seed=5):
    """Two groups that share the luck of their seeds; the first is better by ``difference`` on average."""
    generator = np.random.default_rng(seed)
    luck = generator.normal(0.95, 0.01, count)
    return luck + generator.normal(difference, 0.003, count), luck


@pytest.mark.parametrize("count", [3, 10, 20])
def test_intervals_and_p_values_equal_those_of_statsmodels(count):
    first, second = planted(count)
    paired, reference = paired_difference(first, second, resamples=0), weightstats.DescrStatsW(first - second)
    assert paired.interval == pytest.approx(reference.tconfint_mean(alpha=0.05))
    assert paired.p_value == pytest.approx(reference.ttest_mean(0)[1])
    assert paired.sd == pytest.approx(np.std(first - second, ddof=1))
    groups = weightstats.DescrStatsW(first), weightstats.DescrStatsW(second[:-1])
    unpaired, reference = unpaired_difference(first, second[:-1], resamples=0), weightstats.CompareMeans(*groups)
    assert unpaired.interval == pytest.approx(reference.tconfint_diff(alpha=0.05, usevar="unequal"))
    assert unpaired.p_value == pytest.approx(reference.ttest_ind(usevar="unequal")[1])


def test_the_bootstrap_and_the_permutation_test_equal_those_of_scipy():
    first, second = planted(20)
    result = paired_difference(first, second)
    reference = stats.bootstrap((first - second,), np.mean, method="percentile", n_resamples=9_999, rng=1)
    # Other random numbers move the ends by a few hundredths of the width.
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert result.bootstrap_interval == pytest.approx(tuple(reference.confidence_interval), abs=0.05 * width)
    assert result.bootstrap_interval[0] < result.mean < result.bootstrap_interval[1]
    reference = stats.permutation_test((first - second,), np.mean, permutation_type="samples", vectorized=True, rng=1)
    assert result.permutation_p_value == pytest.approx(reference.pvalue, abs=2e-3)


def test_without_resampling_the_other_numbers_stay():
    full, quick = (paired_difference(_A, _B, resamples=resamples) for resamples in (999, 0))
    assert (quick.permutation_p_value, quick.bootstrap_interval) == (None, None)
    assert replace(full, permutation_p_value=None, bootstrap_interval=None) == quick


def test_holms_correction_equals_that_of_statsmodels():
    p_values = np.random.default_rng(3).uniform(0, 1, 15) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


@pytest.mark.extra
def test_groups_without_a_difference_are_told_apart_in_one_of_twenty_simulations():
    """The number of false alarms is as binomial numbers with a rate of 5 % are, for one comparison and for families."""
    generator, simulations = np.random.default_rng(11), 250
    alarms = {"t": 0, "welch": 0, "family": 0}
    for _ in range(simulations):
        groups = generator.normal(0.9, 0.01, (3, 7))
        paired = [paired_difference(groups[a], groups[b], resamples=0).p_value for a, b in ((0, 1), (0, 2), (1, 2))]
        alarms["t"] += paired[0] < 0.05
        alarms["family"] += min(holm(paired)) < 0.05
        alarms["welch"] += unpaired_difference(groups[0], groups[1], resamples=0).p_value < 0.05
    assert stats.binomtest(alarms["t"], simulations, 0.05).pvalue > 0.01
    # Welch's test is approximate, and Holm's correction is an upper bound: both may give fewer alarms, but not more.
    for name in ("welch", "family"):
        assert stats.binomtest(alarms[name], simulations, 0.05, alternative="greater").pvalue > 0.01, name


def test_permutations_of_equal_groups_give_no_more_than_one_false_alarm_in_twenty():
    generator, simulations = np.random.default_rng(12), 150
    alarms = sum(
        paired_difference(*generator.normal(0.9, 0.01, (2, 7)), resamples=128).permutation_p_value < 0.05
        for _ in range(simulations)
    )
    assert stats.binomtest(alarms, simulations, 0.05, alternative="greater").pvalue > 0.01


def test_mcnemar_equals_the_binomial_formula():
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:70], second[5:72] = True, True  # 5 images only the first has right, 2 only the second
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second, result.images) == (5, 2, 100)
    tail = sum(math.comb(7, k) for k in range(3)) / 2**7
    assert result.p_value == pytest.approx(2 * tail)
    assert mcnemar(first, first).p_value == 1.0


def test_mcnemar_equals_that_of_statsmodels():
    generator = np.random.default_rng(4)
    first, second = generator.random(2000) < 0.95, generator.random(2000) < 0.93
    table = [[(a & b).sum() for b in (second, ~second)] for a in (first, ~first)]
    assert mcnemar(first, second).p_value == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)
