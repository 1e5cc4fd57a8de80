"""Tests and intervals for the difference between two groups of measurements, paired or not.

``compare.comparison`` applies them to runs. All tests are two-sided. Nothing here imports torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

Floats = npt.NDArray[np.float64]

# The resamples and the measured values together are 10,000, so random permutations give multiples of 0.0001.
RESAMPLES = 9_999
# Resampling is random, but the same comparison must print the same numbers each time.
_RESAMPLING_SEED = 0
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean difference between two groups and how certain it is.

    ``count`` is the number of pairs, or of values in the smaller group if they are not ``paired``. ``sd`` is the sample
    standard deviation of one difference. ``interval`` is Student's 95 % interval (Welch's if not paired),
    ``bootstrap_interval`` the percentile bootstrap's. ``p_value`` belongs to ``interval``; ``permutation_p_value``
    assumes no distribution. ``effect_size`` is the mean divided by ``sd``. All but the mean are None if there are too
    few values, and the effect size also if all differences are equal.
    """

    mean: float
    count: int
    paired: bool
    sd: float | None = None
    interval: tuple[float, float] | None = None
    bootstrap_interval: tuple[float, float] | None = None
    p_value: float | None = None
    permutation_p_value: float | None = None
    effect_size: float | None = None


def paired_difference(first: Sequence[float], second: Sequence[float], *, resamples: int = RESAMPLES) -> Difference:
    """Compare pairs: ``first`` minus ``second``, finite and equally long; at least one pair.

    The t test is Student's (1908). The permutation test flips the signs of the differences (Fisher, 1935). With the
    default of ``resamples`` it uses all combinations for up to 13 pairs, because 2^13 is less than 9,999, and
    ``resamples`` random ones for more pairs. The effect size is Cohen's d of the
    differences (Cohen, 1988). With ``resamples=0``, neither permutations nor the bootstrap are computed.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    count = len(differences)
    if count == 1:
        return Difference(mean=float(differences[0]), count=1, paired=True)
    return _difference(
        (differences,), _mean, sd=float(differences.std(ddof=1)), count=count, resamples=resamples,
        t_test=lambda: stats.ttest_1samp(differences, 0.0),
    )  # fmt: skip


def unpaired_difference(first: Sequence[float], second: Sequence[float], *, resamples: int = RESAMPLES) -> Difference:
    """Compare independent values: the mean of ``first`` minus that of ``second``; each has at least one finite value.

    The t test is Welch's (1947), which allows different variances. ``sd`` is the root of the mean of both variances.
    """
    samples = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    count = min(len(samples[0]), len(samples[1]))
    if count == 1:
        return Difference(mean=float(_mean_difference(*samples)), count=count, paired=False)
    sd = math.sqrt((samples[0].var(ddof=1) + samples[1].var(ddof=1)) / 2)
    return _difference(
        samples, _mean_difference, sd=sd, count=count, resamples=resamples,
        t_test=lambda: stats.ttest_ind(*samples, equal_var=False),
    )  # fmt: skip


def _difference(
    samples: tuple[Floats, ...],
    statistic: Callable[..., Floats],
    *,
    sd: float,
    count: int,
    resamples: int,
    t_test: Callable[[], Any],
) -> Difference:
    """Apply all tests to ``statistic(*samples)``, the mean difference.

    ``samples`` are the values of both groups, or, for pairs, one sample with their differences. ``t_test`` returns
    scipy's result; it is called only if the values differ.
    """
    mean, paired = float(statistic(*samples)), len(samples) == 1
    settings = {"n_resamples": resamples or RESAMPLES, "vectorized": True, "rng": _RESAMPLING_SEED}
    # In scipy's terms: flip the signs of differences, or move values between the two groups.
    permutation_type = "samples" if paired else "independent"
    # If all values are equal up to rounding, the t statistic would divide by zero, but a permutation test is possible.
    all_equal = sd <= 1e-12 * max(abs(mean), 1.0)
    permutation_p_value = bootstrap_interval = None
    if resamples or all_equal:
        permutation = stats.permutation_test(samples, statistic, permutation_type=permutation_type, **settings)
        permutation_p_value = float(permutation.pvalue)
    if all_equal:
        return Difference(
            mean=mean, count=count, paired=paired, sd=0.0, interval=(mean, mean), bootstrap_interval=(mean, mean),
            p_value=permutation_p_value, permutation_p_value=permutation_p_value,
        )  # fmt: skip
    test = t_test()
    if resamples:
        bootstrap = stats.bootstrap(samples, statistic, method="percentile", confidence_level=_CONFIDENCE, **settings)
        bootstrap_interval = _interval(bootstrap.confidence_interval)
    return Difference(
        mean=mean, count=count, paired=paired, sd=sd, interval=_interval(test.confidence_interval(_CONFIDENCE)),
        bootstrap_interval=bootstrap_interval, p_value=float(test.pvalue), permutation_p_value=permutation_p_value,
        effect_size=mean / sd,
    )  # fmt: skip


def swapped(difference: Difference) -> Difference:
    """Return the difference with the groups in the other order: mean, intervals and effect size change their sign."""
    intervals = [
        None if bounds is None else (-bounds[1], -bounds[0])
        for bounds in (difference.interval, difference.bootstrap_interval)
    ]
    effect = difference.effect_size
    return replace(
        difference, mean=-difference.mean, interval=intervals[0], bootstrap_interval=intervals[1],
        effect_size=None if effect is None else -effect,
    )  # fmt: skip


def _mean(values: Floats, axis: int = -1) -> Floats:
    result: Floats = np.mean(values, axis=axis)
    return result


def _mean_difference(first: Floats, second: Floats, axis: int = -1) -> Floats:
    result: Floats = np.mean(first, axis=axis) - np.mean(second, axis=axis)
    return result


def _interval(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests, in the given order (Holm, 1979).

    The chance that any of the tests shows a difference that does not exist is then at most the level, such as 0.05.
    """
    corrected = [0.0] * len(p_values)
    # From the smallest p-value to the largest; a corrected value is never smaller than the one before it.
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def detectable_difference(count: int, sd: float, *, paired: bool, level: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that ``count`` pairs (or values per group) show with probability ``power``.

    A difference is shown if p < ``level`` in Student's t test. ``sd`` is the standard deviation of one difference, or
    within each group if not ``paired``; ``count`` is at least 2. The power follows from the noncentral t distribution
    (Cohen, 1988).
    """
    degrees = count - 1 if paired else 2 * count - 2
    critical = float(stats.t.ppf(1 - level / 2, degrees))

    def excess_power(shift: float) -> float:
        tails = stats.nct.sf(critical, degrees, shift), stats.nct.cdf(-critical, degrees, shift)
        # For a large shift, the tail on the other side underflows, and scipy returns NaN instead of 0.
        return float(np.nansum(tails)) - power

    # The shift is the true difference in standard errors. ``brentq`` finds the shift at which ``excess_power`` is zero,
    # because the power is ``level`` for the shift 0 and nearly 1 at the upper bound.
    shift = float(brentq(excess_power, 0.0, 4 * critical + 10))
    return shift * sd * math.sqrt((1 if paired else 2) / count)


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of two networks on the same ``images``.

    ``only_first`` counts the images that only the first network classifies correctly, ``only_second`` the reverse.
    """

    only_first: int
    only_second: int
    images: int
    p_value: float


def mcnemar(first_correct: npt.NDArray[np.bool_], second_correct: npt.NDArray[np.bool_]) -> McNemar:
    """Test whether two networks classify equally many images correctly, by McNemar's exact test (1947).

    Each argument is bool (N,): whether the network classifies each image correctly. The p-value is about these two
    trained networks. It says nothing about other seeds of the same settings.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    differing = only_first + only_second
    p_value = float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, len(first_correct), p_value)
