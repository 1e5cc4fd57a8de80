"""Verdicts agree with Student's and Welch's tests, have the right direction, and stay open if too little is known."""

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from digitlab.reproduce.findings import Claim, Finding, Quantity
from digitlab.reproduce.rows import Metric
from digitlab.reproduce.verdicts import Sample, decide, differences, reached

ACCURACY, LOSS = Metric("test/accuracy", 0.9), Metric("test/loss", 0.05)


def finding(*claims):
    return Finding("R0", "a claim", claims)


def sampled(**values):
    return lambda quantity: Sample(tuple(values.get(quantity.row, ())))


ONE_OVER_TWO = finding(Claim(Quantity("one"), Quantity("two")))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_standard_deviation_and_error_are_the_usual_ones(values):
    sample = Sample(tuple(values))
    assert sample.sd == pytest.approx(statistics.stdev(values))
    assert sample.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))


@pytest.mark.parametrize(
    ("metric", "values", "verdict"),
    [
        (ACCURACY, (0.91, 0.92, 0.93), "reached"),
        (ACCURACY, (0.88, 0.90, 0.91), "reached"),
        (ACCURACY, (0.880, 0.881, 0.882), "short"),
        (ACCURACY, (0.8999,), "short"),
        (ACCURACY, (0.9,), "reached"),
        (ACCURACY, (), ""),
        (LOSS, (0.04, 0.041), "reached"),
        (LOSS, (0.06, 0.0601), "short"),
        (Metric("test/accuracy", 0.85, counts_from=0.845), (0.846,), "reached"),
        (Metric("test/accuracy"), (0.9, 0.91), ""),
    ],
)
def test_a_reported_value_is_reached_if_it_is_better_or_chance_explains_the_gap(metric, values, verdict):
    assert reached(metric, Sample(values)) == verdict


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        ((0.5, 0.51, 0.52), (0.4, 0.41, 0.42), "holds"),
        ((0.4, 0.41, 0.42), (0.5, 0.51, 0.52), "fails"),
        ((0.4, 0.5, 0.6), (0.45, 0.5, 0.52), "undecided"),
        ((0.5,), (0.1,), "undecided"),
        ((), (0.1, 0.2), "undecided"),
    ],
)
def test_a_claim_is_decided_by_the_confidence_interval_of_the_difference(one, two, verdict):
    assert decide(ONE_OVER_TWO, sampled(one=one, two=two)) == verdict


# Far from equal values, so that rounding decides nothing.
SAMPLES = st.lists(st.integers(0, 1000).map(lambda value: value / 1000), min_size=2, max_size=8).filter(
    lambda values: len(set(values)) > 1
)


@given(SAMPLES, SAMPLES)
def test_a_claim_is_decided_as_by_welchs_test(one, two):
    result = stats.ttest_ind(one, two, equal_var=False)
    assume(abs(result.pvalue - 0.05) > 1e-6)
    expected = "undecided" if result.pvalue > 0.05 else "holds" if result.statistic > 0 else "fails"
    assert decide(ONE_OVER_TWO, sampled(one=one, two=two)) == expected


@given(SAMPLES)
def test_a_reported_value_is_missed_exactly_where_students_test_finds_the_mean_too_low(values):
    result = stats.ttest_1samp(values, ACCURACY.reported)
    assume(abs(result.pvalue - 0.05) > 1e-6)
    too_low = result.pvalue < 0.05 and result.statistic < 0
    assert reached(ACCURACY, Sample(tuple(values))) == ("short" if too_low else "reached")


def test_three_runs_are_allowed_more_than_thirty():
    # Both means lie three standard errors below the report's value. Student allows 4.3 with 3 runs and 2.05 with 30.
    three = tuple(ACCURACY.reported + 0.01 * (step - 3 / math.sqrt(3)) for step in (-1, 0, 1))
    thirty = three * 10
    error = Sample(thirty).standard_error
    thirty = tuple(value - statistics.fmean(thirty) + ACCURACY.reported - 3 * error for value in thirty)
    assert reached(ACCURACY, Sample(three)) == "reached"
    assert reached(ACCURACY, Sample(thirty)) == "short"


def test_a_finding_holds_if_all_claims_hold_and_fails_if_one_fails():
    holds, fails = Claim(1.0, Quantity("two")), Claim(Quantity("two"), 1.0)
    open_ = Claim(Quantity("none"), Quantity("two"))
    sample = sampled(two=(0.1, 0.2))
    assert decide(finding(holds), sample) == "holds"
    assert decide(finding(holds, open_), sample) == "undecided"
    assert decide(finding(holds, open_, fails), sample) == "fails"


def test_a_margin_is_part_of_the_claim():
    sample = sampled(one=(0.50, 0.51), two=(0.49, 0.50))
    assert decide(finding(Claim(Quantity("one"), Quantity("two"), margin=0.1)), sample) == "fails"
    assert decide(finding(Claim(Quantity("two"), Quantity("one"), margin=-0.1)), sample) == "holds"
    assert differences(ONE_OVER_TWO.claims, sample) == pytest.approx([0.01])
