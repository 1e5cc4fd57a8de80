"""Decides whether our runs reach a reported value and whether a finding holds, by means and confidence intervals.

``reproduce.table`` uses it. A finding is a sentence of a report that is no single number. It holds if all its claims
hold; a claim says that one quantity is larger than another by a margin. Standard deviations divide by n - 1; the
standard error is the standard deviation divided by the square root of n.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from digitlab.reproduce.findings import Claim, Finding, Quantity
from digitlab.reproduce.rows import Metric
from digitlab.sweeps.statistics import half_width, student_quantile

# ``reached`` and ``short`` are for reported values, ``holds``, ``fails`` and ``undecided`` for findings. The text is
# empty if there is nothing to decide.
Verdict = Literal["reached", "short", "holds", "fails", "undecided", ""]


@dataclass(frozen=True, slots=True)
class Sample:
    """n values of one quantity, one for each run; ``mean``, ``sd`` and ``standard_error`` are nan if n is too small."""

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


def reached(metric: Metric, ours: Sample) -> Verdict:
    """Return ``reached`` if the mean of our runs is as good as the report's value, or worse by no more than chance.

    Otherwise return ``short``; return an empty text if the report gives no value or there is no run. A gap counts as
    chance if it is at most half the width of the 95 % confidence interval of our mean (Student's t with n - 1 degrees
    of freedom). With two standard errors instead, the interval of three runs would be one of 82 %.
    """
    if metric.target is None or math.isnan(ours.mean):
        return ""
    shortfall = (ours.mean - metric.target) * (1 if metric.lower_is_better else -1)
    # One run does not say how large its own error is, so its value has to be as good.
    allowed = 0.0 if ours.n == 1 else half_width(ours.n, ours.sd)
    return "reached" if shortfall <= allowed else "short"


def decide(finding: Finding, sample: Callable[[Quantity], Sample]) -> Verdict:
    """Return ``holds`` if every claim holds, ``fails`` if at least one fails, and ``undecided`` otherwise."""
    verdicts = [_decide_claim(claim, sample) for claim in finding.claims]
    if "fails" in verdicts:
        return "fails"
    return "holds" if all(verdict == "holds" for verdict in verdicts) else "undecided"


def _decide_claim(claim: Claim, sample: Callable[[Quantity], Sample]) -> Verdict:
    """Return whether a claim ``holds`` or ``fails``, or ``undecided`` if chance can explain the difference.

    It is also undecided if a side has fewer than two runs. A constant side has no error.
    """
    larger, smaller = (
        Sample((side,)) if isinstance(side, float) else sample(side) for side in (claim.larger, claim.smaller)
    )
    measured_samples = [
        each for side, each in ((claim.larger, larger), (claim.smaller, smaller)) if not isinstance(side, float)
    ]
    if any(each.n < 2 for each in measured_samples):
        return "undecided"
    excess, half_width = larger.mean - smaller.mean - claim.margin, _half_width(measured_samples)
    if excess > half_width:
        return "holds"
    return "fails" if excess < -half_width else "undecided"


def _half_width(samples: Sequence[Sample]) -> float:
    """Return half the width of the 95 % confidence interval of a difference of means; each sample has n ≥ 2.

    The degrees of freedom follow Welch (1947) and Satterthwaite (1946).
    """
    variances = [sample.standard_error**2 for sample in samples]
    total = sum(variances)
    if total == 0:
        return 0.0
    terms = [(variance / total) ** 2 / (sample.n - 1) for variance, sample in zip(variances, samples, strict=True)]
    return student_quantile(1 / sum(terms)) * math.sqrt(total)


def differences(claims: Sequence[Claim], sample: Callable[[Quantity], Sample]) -> list[float]:
    """Return for each claim the mean that is claimed to be larger minus the other mean."""
    means = [
        [side if isinstance(side, float) else sample(side).mean for side in (claim.larger, claim.smaller)]
        for claim in claims
    ]
    return [larger - smaller for larger, smaller in means]
