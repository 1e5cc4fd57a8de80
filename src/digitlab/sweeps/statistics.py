"""Mean, standard deviation and confidence interval of a few measurements, such as the same run with several seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Summary:
    """``count`` values: their mean, sample standard deviation ``sd``, and the 95 % confidence interval of the mean.

    One value alone has neither ``sd`` nor ``interval``. The interval is Student's (1908), which holds for few values if
    these are about normally distributed; it is cut to where a mean can lie, which changes nothing of how often it
    holds.
    """

    count: int
    mean: float
    sd: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float], *, within: tuple[float, float] = (-math.inf, math.inf)) -> "Summary":
        """Of one value or more, all of them ``within`` the two bounds."""
        count, mean = len(values), statistics.fmean(values)
        if count == 1:
            return cls(count, mean)
        sd = statistics.stdev(values, xbar=mean)
        half = student_quantile(count - 1) * sd / math.sqrt(count)
        return cls(count, mean, sd, (max(mean - half, within[0]), min(mean + half, within[1])))


@lru_cache
def student_quantile(degrees: int, probability: float = 0.975) -> float:
    """The value below which Student's t with ``degrees`` of freedom stays with ``probability``, in (0, 1)."""
    # Imported here: most commands don't need it, and it takes long. scipy.stats, whose t.ppf calls this, takes longer.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
