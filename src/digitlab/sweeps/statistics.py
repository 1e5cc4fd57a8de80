"""Mean, standard deviation and confidence interval of a few measurements, for example of the runs of one setting.

These runs differ only in the seed or fold. The tables and figures of sweeps use this module, and so do the course
reports in ``reproduce``.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, sample standard deviation ``sd`` and 95 % confidence interval of the mean of ``count`` values.

    ``sd`` and ``interval`` are None for a single value and for values that are not all finite. The interval is
    Student's (1908). It holds for few values if these are roughly normally distributed.
    """

    count: int
    mean: float
    sd: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float], *, within: tuple[float, float] = (-math.inf, math.inf)) -> "Summary":
        """Summarise one value or more. ``within`` are the lowest and the highest possible value.

        The interval is cut off at these bounds. It contains the true mean as often as before, because the true mean
        lies within the same bounds.
        """
        count, mean = len(values), statistics.fmean(values)
        # A diverged run has an infinite value, so the mean is infinite and there is no standard deviation.
        if count == 1 or not math.isfinite(mean):
            return cls(count, mean)
        sd = statistics.stdev(values, xbar=mean)
        half = half_width(count, sd)
        return cls(count, mean, sd, (max(mean - half, within[0]), min(mean + half, within[1])))


def half_width(count: int, sd: float) -> float:
    """Return half the width of Student's 95 % confidence interval of a mean of two values or more."""
    return student_quantile(count - 1) * sd / math.sqrt(count)


@lru_cache
def student_quantile(degrees: float, probability: float = 0.975) -> float:
    """Return the quantile of Student's t distribution with ``degrees`` of freedom at ``probability``, in (0, 1).

    With the default, plus and minus the quantile are the limits of a 95 % interval.
    """
    # Imported late because most commands don't need it. scipy.stats.t.ppf calls this function but imports more slowly.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
