"""Learning-rate range tests: ``sweep=lr_range`` trains a run per rate, from the same weights on the same mini-batches.

Smith (2017) raises the rate within one run. Here each rate has a run of its own, so its loss does not depend on the
rates before it. ``sweeps.report`` prints the suggestion and ``sweeps.gallery`` draws the curve.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from digitlab.core.errors import show
from digitlab.results.history import read_history
from digitlab.results.outcome import UNREADABLE
from digitlab.sweeps.effects import is_number
from digitlab.sweeps.state import SweepRun
from digitlab.sweeps.table import SweepTable

_SWEEP, _RATE = "lr_range", "optimizer.lr"
# With fewer rates there is no curve.
_FEWEST_RATES = 5
# A rate is useful if its loss is above the lowest one by at most this share of the fall from the smallest rate.
_TOLERANCE = 0.1
# A fall of the loss below this share of its start is no training.
_SMALLEST_FALL = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTest:
    """The loss after the same mini-batches for each learning rate, in ascending order.

    ``name`` holds the other swept values, empty without any. ``losses`` are None for rates at which a run diverged.
    ``lowest`` is the rate with the lowest loss. ``useful`` are the smallest and the largest rate around it with a loss
    that is above the lowest one by at most a tenth of the fall from the loss of the smallest rate. ``suggested`` is the
    geometric mean of both. All three are None if the loss falls nowhere.
    """

    name: str
    rates: Sequence[float]
    losses: Sequence[float | None]
    lowest: float | None = None
    useful: tuple[float, float] | None = None
    suggested: float | None = None

    @property
    def diverged(self) -> int:
        return sum(loss is None for loss in self.losses)


def rate_tests(table: SweepTable) -> list[RateTest]:
    """The tests in a sweep that was made with ``sweep=lr_range``, one for each other setting; else none."""
    if _RATE not in table.keys or not any(_is_range_test(run) for run in table.runs):
        return []
    losses: dict[str, dict[float, list[float | None]]] = {}
    for run in table.runs:
        rate = table.values[run.entry.number][_RATE]
        if not (run.status == "finished" or run.diverged) or not is_number(rate):
            continue
        others = ((key, value) for key, value in zip(table.keys, table.setting(run), strict=True) if key != _RATE)
        name = ", ".join(f"{key}={show(value)}" for key, value in others)
        losses.setdefault(name, {}).setdefault(float(rate), []).append(_last_loss(run))
    return [rate_test(name, {rate: _mean(own) for rate, own in each.items()}) for name, each in losses.items()]


def _is_range_test(run: SweepRun) -> bool:
    try:
        return run.folder.read_choices().get("sweep") == _SWEEP
    except UNREADABLE:
        return False


def _last_loss(run: SweepRun) -> float | None:
    """The validation loss after the last mini-batch, the training loss without validation; None if it diverged."""
    if run.diverged:
        return None
    try:
        values = read_history(run.folder)[-1].values
        loss = values.get("val/loss", values.get("train/loss", math.nan))
    except (*UNREADABLE, IndexError):
        return None
    return loss if math.isfinite(loss) else None


def _mean(losses: Sequence[float | None]) -> float | None:
    finite = [loss for loss in losses if loss is not None]
    # One seed that diverges is enough: the rate is not stable.
    return statistics.fmean(finite) if len(finite) == len(losses) else None


def rate_test(name: str, losses: Mapping[float, float | None]) -> RateTest:
    """Evaluate the losses by rate (see ``RateTest`` for the rules).

    Within one run whose rate grows, the usual choice is where the loss falls fastest. With a run per rate, that is a
    rate that is too small: it is where a few hundred mini-batches just suffice to learn something.
    """
    rates = sorted(losses)
    ordered = [losses[rate] for rate in rates]
    test = RateTest(name=name, rates=rates, losses=ordered)
    start = ordered[0] if ordered else None
    if start is None or len(rates) < _FEWEST_RATES:
        return test
    # A loss above that of the smallest rate says no more than that the rate is too large.
    capped = [start if loss is None else min(loss, start) for loss in ordered]
    lowest = min(range(len(rates)), key=capped.__getitem__)
    fall = start - capped[lowest]
    if fall < _SMALLEST_FALL * abs(start):
        return test
    most = capped[lowest] + _TOLERANCE * fall
    first = last = lowest
    while first > 0 and capped[first - 1] <= most:
        first -= 1
    while last + 1 < len(rates) and capped[last + 1] <= most:
        last += 1
    useful = rates[first], rates[last]
    return replace(test, lowest=rates[lowest], useful=useful, suggested=math.sqrt(useful[0] * useful[1]))


def suggestion_lines(test: RateTest) -> list[str]:
    """What the test suggests, in plain English."""
    where = f" ({test.name})" if test.name else ""
    diverged = f"; {test.diverged} of {len(test.rates)} rates diverged" if test.diverged else ""
    if test.lowest is None or test.useful is None or test.suggested is None:
        reason = "the loss falls at no rate" if len(test.rates) >= _FEWEST_RATES else "too few rates"
        return [f"learning-rate range test{where}: no suggestion, {reason}{diverged}"]
    low, high = test.useful
    return [
        f"learning-rate range test{where}: the loss is lowest at {test.lowest:.2g}, and nearly as low from {low:.2g} "
        f"to {high:.2g}{diverged}",
        f"  suggestion: optimizer.lr={test.suggested:.2g}, the middle of this range on a logarithmic axis; with a "
        f"schedule that warms up and decays, such as scheduler=one_cycle, up to {high:.2g} (Smith, 2017)",
    ]
