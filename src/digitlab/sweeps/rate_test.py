"""Suggests a learning rate from a range test: a sweep with ``sweep=lr_range``, which trains a short run for each rate.

All runs start from the same weights and use the same mini-batches. Smith (2017) instead raises the rate within one run,
where the loss at a rate depends on the rates before it. ``sweeps.report`` prints the suggestion, and
``sweeps.summary_figures`` draws the curve.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from digitlab.core.errors import show
from digitlab.results.history import read_history
from digitlab.results.outcome import UNREADABLE
from digitlab.sweeps.effects import is_number
from digitlab.sweeps.state import SweepRun
from digitlab.sweeps.table import SweepTable

_SWEEP, _RATE = "lr_range", "optimizer.lr"
# With fewer rates, there is no suggestion.
_FEWEST_RATES = 5
# The fall is the loss at the smallest rate minus the lowest loss. A rate is useful if its loss exceeds the lowest loss
# by at most this share of the fall.
_TOLERANCE = 0.1
# If the fall is less than this share of the loss at the smallest rate, no rate has trained the network.
_SMALLEST_FALL = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTest:
    """The loss at each learning rate after the same mini-batches, in ascending order of the rates.

    ``name`` lists the values of other keys in the sweep, as ``model=mlp``; it is empty if only the rate is swept.
    ``losses`` has None for a rate at which a run diverged. ``lowest`` is the rate with the lowest loss. ``useful`` is
    the range of rates around it, (smallest, largest), whose losses exceed the lowest loss by at most a tenth of the
    fall; the fall is the loss at the smallest rate minus the lowest loss. ``suggested`` is the geometric mean of the
    two rates in ``useful``. These three are None if the loss does not fall or there are too few rates. ``unreadable``
    is the number of runs that are left out because their history can't be read.
    """

    name: str
    rates: Sequence[float]
    losses: Sequence[float | None]
    lowest: float | None = None
    useful: tuple[float, float] | None = None
    suggested: float | None = None
    unreadable: int = 0

    @property
    def diverged(self) -> int:
        return sum(loss is None for loss in self.losses)


def rate_tests(table: SweepTable) -> list[RateTest]:
    """Return a test for each combination of the other swept values; no test if the sweep is not ``sweep=lr_range``."""
    if _RATE not in table.keys or not any(_is_range_test(run) for run in table.runs):
        return []
    # By the name of the test and by the rate, the losses of the runs with different seeds.
    losses: dict[str, dict[float, list[float | None]]] = {}
    unreadable = Counter[str]()
    for run in table.runs:
        rate = table.values[run.entry.number][_RATE]
        # A divergence is a result of the rate. Other failures and unfinished runs say nothing about it.
        if not (run.status == "finished" or run.diverged) or not is_number(rate):
            continue
        others = ((key, value) for key, value in zip(table.keys, table.setting(run), strict=True) if key != _RATE)
        name = ", ".join(f"{key}={show(value)}" for key, value in others)
        by_rate = losses.setdefault(name, {})
        try:
            by_rate.setdefault(float(rate), []).append(_last_loss(run))
        except (*UNREADABLE, IndexError):
            unreadable[name] += 1
    return [
        replace(
            rate_test(name, {rate: _mean(of_seeds) for rate, of_seeds in by_rate.items() if of_seeds}),
            unreadable=unreadable[name],
        )
        for name, by_rate in losses.items()
    ]


def _is_range_test(run: SweepRun) -> bool:
    try:
        return run.folder.read_choices().get("sweep") == _SWEEP
    except UNREADABLE:
        return False


def _last_loss(run: SweepRun) -> float | None:
    """Return the last validation loss of a run, or the last training loss if it has no validation.

    Return None if the run diverged. Raises ``UNREADABLE`` or ``IndexError`` if its history can't be read.
    """
    if run.diverged:
        return None
    values = read_history(run.folder)[-1].values
    loss = values.get("val/loss", values.get("train/loss", math.nan))
    return loss if math.isfinite(loss) else None


def _mean(losses: Sequence[float | None]) -> float | None:
    """Return the mean loss of the runs with one rate, which differ in their seeds; None if any of them diverged."""
    finite = [loss for loss in losses if loss is not None]
    # A rate at which even one seed diverges is not stable.
    return statistics.fmean(finite) if len(finite) == len(losses) else None


def rate_test(name: str, losses: Mapping[float, float | None]) -> RateTest:
    """Evaluate ``losses``, a loss for each rate, by the rules in ``RateTest``.

    If the rate grows within one run, the usual choice is the rate at which the loss falls fastest. If each rate has a
    run of its own, that choice is too small: it is only the smallest rate at which the network learns anything from a
    few hundred mini-batches.
    """
    rates = sorted(losses)
    ordered = [losses[rate] for rate in rates]
    test = RateTest(name=name, rates=rates, losses=ordered)
    start = ordered[0] if ordered else None
    if start is None or len(rates) < _FEWEST_RATES:
        return test
    # If the loss is above that of the smallest rate, or the run diverged, the rate is too large; by how much does not
    # matter, so these losses are set to the same value.
    capped = [start if loss is None else min(loss, start) for loss in ordered]
    lowest = min(range(len(rates)), key=capped.__getitem__)
    fall = start - capped[lowest]
    if fall < _SMALLEST_FALL * abs(start):
        return test
    max_loss = capped[lowest] + _TOLERANCE * fall
    # Only rates next to each other count: a good loss beyond a bad one may be chance.
    first = last = lowest
    while first > 0 and capped[first - 1] <= max_loss:
        first -= 1
    while last + 1 < len(rates) and capped[last + 1] <= max_loss:
        last += 1
    useful = rates[first], rates[last]
    # The middle of the range on a logarithmic axis, because rates are compared by their ratio.
    return replace(test, lowest=rates[lowest], useful=useful, suggested=math.sqrt(useful[0] * useful[1]))


def suggestion_lines(test: RateTest) -> list[str]:
    """Return the lines that tell the user the result and the suggested rate, or why there is no suggestion."""
    where = f" ({test.name})" if test.name else ""
    diverged = f"; {test.diverged} of {len(test.rates)} rates diverged" if test.diverged else ""
    if test.unreadable:
        diverged += f"; without {test.unreadable} run{'s' * (test.unreadable != 1)} whose metrics.csv can't be read"
    if test.lowest is None or test.useful is None or test.suggested is None:
        few = f"there are too few rates ({len(test.rates)}, and at least {_FEWEST_RATES} are needed)"
        reason = "the loss does not fall at any rate" if len(test.rates) >= _FEWEST_RATES else few
        return [f"learning-rate range test{where}: no suggestion, because {reason}{diverged}"]
    low, high = test.useful
    return [
        f"learning-rate range test{where}: the loss is lowest at {test.lowest:.2g}, and nearly as low from {low:.2g} "
        f"to {high:.2g}{diverged}",
        f"  suggestion: optimizer.lr={test.suggested:.2g}, the middle of this range on a logarithmic axis; with a "
        f"schedule that warms up and decays, such as scheduler=one_cycle, up to {high:.2g} (Smith, 2017)",
    ]
