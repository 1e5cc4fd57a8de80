"""Decides whether a figure is reached and whether a finding holds, by means over runs and confidence intervals.

Standard deviations divide by n - 1; the standard error is the standard deviation divided by the square root of n.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from digitlab.reproduce.findings import Claim, Finding, Quantity
from digitlab.reproduce.rows import Figure
from digitlab.sweeps.statistics import student_quantile

Verdict = Literal["reached", "short", "holds", "fails", "undecided", ""]


@dataclass(frozen=True, slots=True)
class Sample:
    """n measurements of one number; ``mean``, ``sd`` and ``standard_error`` are nan if n is too small."""

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
    """Whether ``ours`` is as good as the report's figure, or worse by no more than chance explains.

    Chance explains half the width of the 95 % confidence interval of our mean (Student's t with n - 1 degrees of
    freedom). Two standard errors would cover only 82 % at n = 3.
    """
    if figure.bar is None or math.isnan(ours.mean):
        return ""
    shortfall = (ours.mean - figure.bar) * (1 if figure.lower_is_better else -1)
    # One run says nothing about its own error, so it has to be as good.
    allowed = 0.0 if ours.n == 1 else student_quantile(ours.n - 1) * ours.standard_error
    return "reached" if shortfall <= allowed else "short"


def decide(finding: Finding, sample: Callable[[Quantity], Sample]) -> Verdict:
    """Return ``holds`` if every claim holds, ``fails`` if at least one fails, and ``undecided`` otherwise."""
    verdicts = [_decide(claim, sample) for claim in finding.claims]
    if "fails" in verdicts:
        return "fails"
    return "holds" if all(verdict == "holds" for verdict in verdicts) else "undecided"


def _decide(claim: Claim, sample: Callable[[Quantity], Sample]) -> Verdict:
    """Compare the difference of two means with its 95 % confidence interval; a constant has no error."""
    larger, smaller = (
        Sample((side,)) if isinstance(side, float) else sample(side) for side in (claim.larger, claim.smaller)
    )
    measured = [
        each for side, each in ((claim.larger, larger), (claim.smaller, smaller)) if not isinstance(side, float)
    ]
    if any(each.n < 2 for each in measured):
        return "undecided"
    excess, allowed = larger.mean - smaller.mean - claim.by, _half_width(measured)
    if excess > allowed:
        return "holds"
    return "fails" if excess < -allowed else "undecided"


def _half_width(samples: Sequence[Sample]) -> float:
    """Half the 95 % confidence interval of a sum or difference of the samples' means, each with n ≥ 2.

    The degrees of freedom follow Welch (1947) and Satterthwaite (1946).
    """
    variances = [sample.standard_error**2 for sample in samples]
    total = sum(variances)
    if total == 0:
        return 0.0
    terms = [(variance / total) ** 2 / (sample.n - 1) for variance, sample in zip(variances, samples, strict=True)]
    return student_quantile(1 / sum(terms)) * math.sqrt(total)


def differences(claims: Sequence[Claim], sample: Callable[[Quantity], Sample]) -> list[float]:
    """For each claim, the mean that is claimed to be larger minus the other mean."""
    means = [
        [side if isinstance(side, float) else sample(side).mean for side in (claim.larger, claim.smaller)]
        for claim in claims
    ]
    return [larger - smaller for larger, smaller in means]
