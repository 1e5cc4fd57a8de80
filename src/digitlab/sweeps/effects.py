"""The effect of each swept value, measured by comparing runs that differ in nothing else.

``sweeps.table`` calls it, and the tables and figures of a sweep show the result. A plain mean over all runs with a
value would also contain the effect of the other settings. So differences are paired: two runs form a pair if they
differ in one key only.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeGuard

from digitlab.config.values import Value
from digitlab.core.errors import show
from digitlab.sweeps.statistics import Summary

# Up to this many numbers, the table has a row for each number, even if each occurs only once.
_MAX_SINGLE_VALUES = 8
# More numbers are divided into bins of about four values; there are 3 to 5 bins.
_VALUES_PER_BIN = 4
_MIN_BINS, _MAX_BINS = 3, 5


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished run: its swept values by key, and ``measured``, its monitored value.

    ``replicate`` holds the values of keys such as the seed. ``halved_after_epoch`` is the epoch after which halving
    (which ends the worse runs of a sweep early) ended the run, or None. Two runs form a pair only if they agree in
    both. So they have the same random draws and have trained equally long.
    """

    setting: Mapping[str, Value]
    replicate: tuple[Value, ...]
    measured: float
    halved_after_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class ValueEffect:
    """The effect of one value of a key, or of one bin of numbers, on the monitored metric.

    ``label`` is the value or the bin as text; ``value`` is None for a bin. ``summary`` is over all runs with the value
    (for a bin, over its settings). Summaries of two values are comparable only in a complete grid. ``difference`` is
    over the pairs with the key's reference value: this value minus the reference. It is None for the reference itself
    and for a value without pairs.
    """

    label: str
    value: Value
    summary: Summary
    difference: Summary | None = None
    is_reference: bool = False


def value_effects(
    observations: Sequence[Observation],
    key: str,
    *,
    direction: Literal["min", "max"],
    within: tuple[float, float] = (-math.inf, math.inf),
) -> list[ValueEffect]:
    """Return the effect of each value of ``key``; the reference is the best value of the key.

    ``within`` are the lowest and the highest possible value of the metric. If the values are many numbers without
    pairs, as in a random search, there is one effect for each of 3 to 5 quantile bins instead.
    """
    measured: dict[Value, list[float]] = defaultdict(list)
    for each in observations:
        measured[each.setting[key]].append(each.measured)
    values = in_order(measured)
    blocks = _blocks(observations, key)
    if _needs_bins(values, blocks):
        return _bin_effects(observations, key, values, within)
    reference = _reference(values, blocks, direction)
    effects = []
    for value in values:
        differences = [] if reference is None else _differences(blocks, value, reference[0])
        is_reference = reference is not None and value == reference[0]
        effects.append(
            ValueEffect(
                label=show(value),
                value=value,
                summary=Summary.of(measured[value], within=within),
                difference=Summary.of(differences) if differences and not is_reference else None,
                is_reference=is_reference,
            )
        )
    return effects


# What the runs of a block share: the values of all other keys, the replicate, and the epoch after which halving ended
# them.
_Shared = tuple[tuple[tuple[str, Value], ...], tuple[Value, ...], int | None]


@dataclass(frozen=True, slots=True)
class _Block:
    """Two or more runs that differ in one key only: their measured values, by the value of that key."""

    replicate: tuple[Value, ...]
    measured: Mapping[Value, float]


def _blocks(observations: Sequence[Observation], key: str) -> list[_Block]:
    """Group the runs that agree in all keys except ``key``, and return the groups of at least two."""
    blocks: dict[_Shared, dict[Value, float]] = defaultdict(dict)
    for each in observations:
        others = tuple((name, value) for name, value in each.setting.items() if name != key)
        blocks[others, each.replicate, each.halved_after_epoch][each.setting[key]] = each.measured
    return [_Block(replicate, measured) for (_, replicate, _), measured in blocks.items() if len(measured) > 1]


def _differences(blocks: Iterable[_Block], value: Value, reference: Value) -> list[float]:
    """Return ``value`` minus ``reference`` for each replicate (seed), without differences that are not finite.

    Runs with the same seed are not independent, so their differences are averaged. Counted singly, they would make the
    interval too narrow. If all runs have one seed, there is one difference for each block.
    """
    by_seed: dict[tuple[Value, ...], list[float]] = defaultdict(list)
    for block in blocks:
        if value in block.measured and reference in block.measured:
            difference = block.measured[value] - block.measured[reference]
            if math.isfinite(difference):
                by_seed[block.replicate].append(difference)
    if len(by_seed) == 1:
        return next(iter(by_seed.values()))
    return [statistics.fmean(differences) for differences in by_seed.values()]


def _reference(
    values: Sequence[Value], blocks: Sequence[_Block], direction: Literal["min", "max"]
) -> tuple[Value] | None:
    """Return a tuple of the best value of the key; None if there are no pairs.

    It is a tuple because None can also be a value of the key.
    """
    if not blocks:
        return None
    # Means are comparable only over blocks that have every value. If there are none, all blocks are used.
    complete = [block.measured for block in blocks if len(block.measured) == len(values)]
    used = complete or [block.measured for block in blocks]
    means = {
        value: statistics.fmean(measured[value] for measured in used if value in measured)
        for value in values
        if any(value in measured for measured in used)
    }
    return ((min if direction == "min" else max)(means, key=means.__getitem__),)


def _needs_bins(values: Sequence[Value], blocks: Sequence[_Block]) -> bool:
    """Return whether the values are many numbers without pairs, whose effects are shown in bins."""
    if len(values) <= _MAX_SINGLE_VALUES or not all(is_number(value) for value in values):
        return False
    # If all runs are in one block, an effect for each value would only repeat the table of settings.
    return len(blocks) <= 1


def _bin_effects(
    observations: Sequence[Observation], key: str, values: Sequence[Value], within: tuple[float, float]
) -> list[ValueEffect]:
    """Return one effect for each quantile bin of numbers; the replicates of a setting count once, by their mean."""
    replicates: dict[tuple[Value, ...], list[float]] = defaultdict(list)
    value_of: dict[tuple[Value, ...], Value] = {}
    for each in observations:
        setting = tuple(each.setting.values())
        replicates[setting].append(each.measured)
        value_of[setting] = each.setting[key]
    # Bins of nearly equal numbers of values, because a search samples some regions much more densely than others.
    bins = min(max(len(values) // _VALUES_PER_BIN, _MIN_BINS), _MAX_BINS)
    edges = [len(values) * number // bins for number in range(bins + 1)]
    effects = []
    for first, end in pairwise(edges):
        bin_values = set(values[first:end])
        # The mean of each setting, so that one with three seeds does not count three times as much as one with one.
        means = [
            statistics.fmean(measured) for setting, measured in replicates.items() if value_of[setting] in bin_values
        ]
        label = f"{show(values[first])} to {show(values[end - 1])}"
        effects.append(ValueEffect(label, None, Summary.of(means, within=within)))
    return effects


def in_order(values: Iterable[Value]) -> list[Value]:
    """Return the distinct values: numbers in ascending order, then the others in their order."""
    values = list(dict.fromkeys(values))
    numbers = [value for value in values if is_number(value)]
    return [*sorted(numbers), *(value for value in values if not is_number(value))]


def is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
