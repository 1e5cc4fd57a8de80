"""Whether a figure is reached and whether a finding holds, by means over runs and their standard errors.

Standard deviations divide by n - 1; a standard error is one divided by the square root of n.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from digitlab.reproduce.findings import Claim, Finding, Quantity
from digitlab.reproduce.rows import Figure

Verdict = Literal["reached", "short", "holds", "fails", "undecided", ""]


@dataclass(frozen=True, slots=True)
class Sample:
    """n values of one number."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def sd(self) -> float:
        return statistics.stdev(self.values) if self.n > 1 else math.nan

    @property
    def standard_error(self) -> float:
        return self.sd / math.sqrt(self.n) if self.n > 1 else math.nan


def reached(figure: Figure, ours: Sample) -> Verdict:
    """Whether ``ours`` is as good as the report's figure, or worse by at most two standard errors."""
    if figure.bar is None or math.isnan(ours.mean):
        return ""
    shortfall = (ours.mean - figure.bar) * (1 if figure.lower_is_better else -1)
    # Of one run nothing is known of the error: it has to be as good.
    error = 0.0 if math.isnan(ours.standard_error) else ours.standard_error
    return "reached" if shortfall <= 2 * error else "short"


def decide(finding: Finding, sample: Callable[[Quantity], Sample]) -> Verdict:
    """``holds`` if every claim does, ``fails`` if one fails, else ``undecided``."""
    verdicts = [_decide(claim, sample) for claim in finding.claims]
    if "fails" in verdicts:
        return "fails"
    return "holds" if all(verdict == "holds" for verdict in verdicts) else "undecided"


def _decide(claim: Claim, sample: Callable[[Quantity], Sample]) -> Verdict:
    """By the difference of two means against twice its standard error (Welch, 1947); a constant has no error."""
    larger, smaller = (
        Sample((side,)) if isinstance(side, float) else sample(side) for side in (claim.larger, claim.smaller)
    )
    errors = [
        0.0 if isinstance(side, float) else each.standard_error
        for side, each in ((claim.larger, larger), (claim.smaller, smaller))
    ]
    excess, error = larger.mean - smaller.mean - claim.by, math.hypot(*errors)
    # nan, where runs are missing or there is one alone, leaves it open.
    if excess > 2 * error:
        return "holds"
    return "fails" if excess < -2 * error else "undecided"


def differences(claims: Sequence[Claim], sample: Callable[[Quantity], Sample]) -> list[float]:
    """By how much the larger mean of each claim exceeds the smaller one."""
    means = [
        [side if isinstance(side, float) else sample(side).mean for side in (claim.larger, claim.smaller)]
        for claim in claims
    ]
    return [larger - smaller for larger, smaller in means]
