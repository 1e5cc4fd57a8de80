"""Summaries compared with NumPy and with the printed table of Student's distribution."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlab.sweeps.statistics import Summary, student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # Two-sided 95 %, as in every textbook.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (10, 2.228), (29, 2.045), (120, 1.980)],
)
def test_quantiles_equal_the_printed_table(degrees, quantile):
    assert student_quantile(degrees) == pytest.approx(quantile, abs=5e-4)


def test_quantiles_approach_those_of_the_normal_distribution():
    assert student_quantile(100_000) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 5, 8])
def test_quantiles_enclose_their_probability(degrees):
    def density(t):
        scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
        return scale * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)

    t = np.linspace(0, student_quantile(degrees, 0.9), 20_001)
    assert np.trapezoid(density(t), t) == pytest.approx(0.4, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_mean_and_deviation_equal_numpys(values):
    summary = Summary.of(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    half = student_quantile(len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    assert summary.interval == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-9)


def test_one_value_has_no_spread():
    assert Summary.of([0.5]) == Summary(1, 0.5)


def test_intervals_are_clipped_to_the_bounds():
    values = [0.98, 1.0]
    low, high = Summary.of(values).interval
    assert high > 1
    assert Summary.of(values, within=(0, 1)).interval == (low, 1)
    assert Summary.of([0.01, 0.5], within=(0, math.inf)).interval[0] == 0


def test_nineteen_of_twenty_intervals_contain_the_true_mean():
    samples = np.random.default_rng(0).normal(size=(4000, 3))
    intervals = [Summary.of(sample.tolist()).interval for sample in samples]
    share = np.mean([low <= 0 <= high for low, high in intervals])
    assert share == pytest.approx(0.95, abs=0.015)
