"""The effect of each swept value, measured by comparing runs that differ in nothing else.

Used by the tables and figures of a sweep. A plain mean over all runs with a value would mix in the effect of the other
settings, so differences are paired: two runs form a pair if they differ in one key alone.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeGuard

from digitlab.core.errors import show
from digitlab.sweeps.statistics import Summary

# A value as it was swept, in Python's types. A list is kept as its text, because lists can't be dictionary keys.
Value = str | int | float | bool | None

# Up to this many numbers, the table has a row per number, even if they occur once each.
_MAX_SINGLE_VALUES = 8
_MIN_BINS, _MAX_BINS = 3, 5
# A bin holds at least about this many values.
_VALUES_PER_BIN = 4


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished run: its swept values by key, what makes it a replicate, and its monitored value.

    ``replicate`` holds the seed and the like: what two runs must share to form a pair although it is not a setting.
    They must also have trained for as long: ``halved_after_epoch`` is the epoch after which halving ended the run.
    """

    setting: Mapping[str, Value]
    replicate: tuple[Value, ...]
    measured: float
    halved_after_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class ValueEffect:
    """What one value of a key, or one bin of numbers, does to the monitored metric.

    ``summary`` is over all runs with the value (for a bin, over its settings) and is comparable only in a complete
    grid. ``difference`` is over the pairs with the key's reference value (this value minus the reference); it is None
    for the reference itself and for a value without pairs. ``value`` is None for a bin.
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
    """The effect of each value of ``key``; the reference is the best value of the key.

    ``within`` are the bounds of the metric. If the values are many numbers without pairs, as in a random search, the
    result has a row for each of 3 to 5 quantile bins instead.
    """
    measured: dict[Value, list[float]] = defaultdict(list)
    for each in observations:
        # All runs with the value, whatever their other settings: good for orientation, but not for an interval.
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
                show(value),
                value,
                Summary.of(measured[value], within=within),
                Summary.of(differences) if differences and not is_reference else None,
                is_reference,
            )
        )
    return effects


@dataclass(frozen=True, slots=True)
class _Block:
    """At least two runs that differ in one key alone: the measured value by the value of that key."""

    replicate: tuple[Value, ...]
    measured: Mapping[Value, float]


def _blocks(observations: Sequence[Observation], key: str) -> list[_Block]:
    blocks: dict[tuple[object, ...], tuple[tuple[Value, ...], dict[Value, float]]] = {}
    for each in observations:
        # The block is everything that the runs of a pair must share: all other keys, the seed and the split.
        others = tuple((name, value) for name, value in each.setting.items() if name != key)
        _, measured = blocks.setdefault((others, each.replicate, each.halved_after_epoch), (each.replicate, {}))
        measured[each.setting[key]] = each.measured
    return [_Block(replicate, measured) for replicate, measured in blocks.values() if len(measured) > 1]


def _differences(blocks: Iterable[_Block], value: Value, reference: Value) -> list[float]:
    """``value`` minus ``reference``, one difference for each seed; a diverged run has no finite difference.

    Runs that share a seed share its luck, so their differences are averaged: counted singly, they would make the
    interval too narrow. With one seed there is one difference for each block.
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
    """The best value of the key, in a tuple because None is a value too; None if no two runs can be compared."""
    if not blocks:
        return None
    # Means are comparable only over blocks that hold every value. If there are none, all blocks have to do.
    complete = [block.measured for block in blocks if len(block.measured) == len(values)]
    complete = complete or [block.measured for block in blocks]
    means = {
        value: statistics.fmean(measured[value] for measured in complete if value in measured)
        for value in values
        if any(value in measured for measured in complete)
    }
    return ((min if direction == "min" else max)(means, key=means.__getitem__),)


def _needs_bins(values: Sequence[Value], blocks: Sequence[_Block]) -> bool:
    if len(values) <= _MAX_SINGLE_VALUES or not all(is_number(value) for value in values):
        return False
    # One block without replicates is a list of single runs: a row each would repeat the table of settings.
    return len(blocks) <= 1


def _bin_effects(
    observations: Sequence[Observation], key: str, values: Sequence[Value], within: tuple[float, float]
) -> list[ValueEffect]:
    """One effect for each quantile bin of numbers; replicates of one setting count once, by their mean."""
    replicates: dict[tuple[Value, ...], list[float]] = defaultdict(list)
    value_of: dict[tuple[Value, ...], Value] = {}
    for each in observations:
        setting = tuple(each.setting.values())
        replicates[setting].append(each.measured)
        value_of[setting] = each.setting[key]
    # Bins of nearly equal numbers of values, because a search samples some regions much more densely than others.
    count = min(max(len(values) // _VALUES_PER_BIN, _MIN_BINS), _MAX_BINS)
    edges = [len(values) * part // count for part in range(count + 1)]
    effects = []
    for first, end in pairwise(edges):
        inside = set(values[first:end])
        # A setting with three seeds must not weigh three times as much as one with a single seed.
        means = [statistics.fmean(own) for setting, own in replicates.items() if value_of[setting] in inside]
        label = f"{show(values[first])} to {show(values[end - 1])}"
        effects.append(ValueEffect(label, None, Summary.of(means, within=within)))
    return effects


def in_order(values: Iterable[Value]) -> list[Value]:
    """The distinct values: numbers in ascending order, then all others in the order in which they came."""
    values = list(dict.fromkeys(values))
    numbers = [value for value in values if is_number(value)]
    return [*sorted(numbers), *(value for value in values if not is_number(value))]


def is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
