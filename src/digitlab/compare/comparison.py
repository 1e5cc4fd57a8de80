"""Compares groups of runs: pairs their runs by seed, fold and all other settings, and tests the differences.

``digitlab compare`` and the report of a sweep use it; ``compare.wording`` says the result. Nothing here imports torch.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from digitlab.compare.groups import Group, Value
from digitlab.compare.statistics import (
    RESAMPLES,
    Difference,
    holm,
    paired_difference,
    swapped,
    unpaired_difference,
)
from digitlab.config.metrics import metric_direction
from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.config.suggestions import nearest
from digitlab.core.errors import ConfigError, show
from digitlab.results.data_set import data_set_name

# Runs whose validation images differ can't be compared on them. The training images may differ (data.train_size).
_VALIDATION_KEYS = ("data.val_size", "data.folds", "data.fold", "data.split_seed")
# The data set itself; the file of the same data may have any place.
_DATA_PREFIX = "data.source."
SIGNIFICANT = 0.05

Setting = tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two groups and the difference ``first`` minus ``second`` in ``metric``, where ``first`` has the better mean.

    ``pairs`` holds the compared values as (first, second), nothing if the runs are not paired. ``corrected_p_value``
    is Holm's for all ``tests`` comparisons; None if there is no p-value. ``notes`` say which runs were left out.
    """

    first: str
    second: str
    metric: str
    means: tuple[float, float]
    difference: Difference
    pairs: Sequence[tuple[float, float]] = ()
    corrected_p_value: float | None = None
    tests: int = 1
    notes: Sequence[str] = ()

    @property
    def significant(self) -> bool:
        return self.corrected_p_value is not None and self.corrected_p_value < SIGNIFICANT


def monitored_metric(groups: Sequence[Group]) -> str:
    """The metric that all runs monitor. Raises ``ConfigError`` if they monitor several."""
    metrics = sorted({run.monitor for group in groups for run in group.runs})
    if len(metrics) > 1:
        raise ConfigError("--metric", None, f"the runs monitor different metrics: choose one of {', '.join(metrics)}")
    return metrics[0]


def compare_groups(groups: Sequence[Group], metric: str) -> list[Comparison]:
    """Compare each group with each other one, the best group first.

    Runs are paired if they agree in seed, fold, split and in everything else that varies within a group. If two groups
    only repeat one setting each and share no seed, they are compared without pairs.

    Raises ``ConfigError`` if the runs can't be compared: another data set, other validation images, a metric that they
    do not have, no pairs.
    """
    _check_metric(groups, metric)
    _check_data(groups)
    best_first = sorted(groups, key=lambda group: _rank(group, metric))
    return _corrected([_compare(one, other, metric) for one, other in itertools.combinations(best_first, 2)])


def compare_with_reference(reference: Group, others: Sequence[Group], metric: str) -> list[Comparison]:
    """Compare ``reference`` with each of ``others``, in their order, as ``compare_groups`` does and without resampling.

    So many groups take milliseconds each, and the differences have neither bootstrap intervals nor permutation tests.
    """
    _check_metric([reference, *others], metric)
    _check_data([reference, *others])
    return _corrected([_compare(reference, other, metric, resamples=0) for other in others])


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    p_values = [each.difference.p_value for each in found if each.difference.p_value is not None]
    corrected = iter(holm(p_values))
    return [
        replace(each, corrected_p_value=None if each.difference.p_value is None else next(corrected), tests=len(found))
        for each in found
    ]


def _check_metric(groups: Sequence[Group], metric: str) -> None:
    for group in groups:
        known = {name for run in group.runs for name in run.metrics if run.value(name) is not None}
        if metric not in known:
            hint = " (runs with test=none have no metrics of the test set)" if metric.startswith("test/") else ""
            raise ConfigError("--metric", metric, f"no run of {group.name} has it{hint}{nearest(metric, known)}")


def _check_data(groups: Sequence[Group]) -> None:
    names: dict[Any, str] = {}
    for group in groups:
        for run in group.runs:
            choice = run.choices.get("data", str(run.settings.get("data.source._target_")))
            node = {key.removeprefix("data."): value for key, value in run.settings.items() if key.startswith("data.")}
            name = data_set_name(choice, node)
            source = tuple((key, value) for key, value in run.settings.items() if key.startswith(_DATA_PREFIX))
            # Folders of pictures and EMNIST have no source in their configuration.
            names[source or name] = name
    if len(names) > 1:
        raise ConfigError("FOLDER", ", ".join(group.name for group in groups), f"different data sets: {_list(names)}")


def _list(names: Mapping[Any, str]) -> str:
    return ", ".join(sorted(set(names.values())))


def _rank(group: Group, metric: str) -> float:
    values = [value for run in group.runs if (value := run.value(metric)) is not None]
    if not values:
        return math.inf
    mean = math.fsum(values) / len(values)
    return mean if metric_direction(metric) == "min" else -mean


def _compare(first: Group, second: Group, metric: str, *, resamples: int = RESAMPLES) -> Comparison:
    # A key that varies within one group is not the difference between the groups, so pairs must agree in it.
    varying = [key for key in _varying(first) | _varying(second) if key not in REPLICATE_KEYS]
    pair_keys = [*REPLICATE_KEYS, *varying]
    one, other = (_values(group, pair_keys, metric) for group in (first, second))
    notes = [note for group, values in ((first, one), (second, other)) for note in _notes(group, values, metric)]
    shared = [key for key in one if key in other]
    if shared:
        _check_validation(first, second, metric, paired=True)
        unpaired = len(one) + len(other) - 2 * len(shared)
        notes += [f"{_runs(unpaired)} without a partner, not counted"] if unpaired else []
        pairs, more = _independent_pairs({key: (one[key], other[key]) for key in shared}, varying)
        notes += [*more, *_fold_note(shared)]
        difference = paired_difference(*zip(*pairs, strict=True), resamples=resamples)
    elif varying:
        raise ConfigError("FOLDER", f"{first.name}, {second.name}", _no_partner(first, second, varying))
    else:
        _check_validation(first, second, metric, paired=False)
        pairs, notes = [], [*notes, "the seeds differ, so the runs are not paired"]
        difference = unpaired_difference(list(one.values()), list(other.values()), resamples=resamples)
    # The groups were ordered by the means of all their runs. In the runs that are compared, the other may be better.
    if difference.mean * (-1 if metric_direction(metric) == "min" else 1) < 0:
        first, second, difference = second, first, swapped(difference)
        one, other, pairs = other, one, [(right, left) for left, right in pairs]
    used = [[pair[side] for pair in pairs] or list(own.values()) for side, own in enumerate((one, other))]
    means = (math.fsum(used[0]) / len(used[0]), math.fsum(used[1]) / len(used[1]))
    return Comparison(
        first=first.name, second=second.name, metric=metric, means=means, difference=difference, pairs=pairs,
        notes=list(dict.fromkeys(notes)),
    )  # fmt: skip


def _independent_pairs(
    pairs: Mapping[Setting, tuple[float, float]], varying: Sequence[str]
) -> tuple[list[tuple[float, float]], list[str]]:
    """One pair for each seed and fold, and a note if the groups hold runs with several other settings.

    The keys of ``pairs`` begin with the values of ``REPLICATE_KEYS``. Runs that share a seed share the luck of its
    initial weights, so their differences are averaged: as pairs of their own they would make the interval too narrow.
    """
    if not varying:
        return list(pairs.values()), []
    by_seed: dict[Setting, list[tuple[float, float]]] = {}
    for key, pair in pairs.items():
        by_seed.setdefault(key[: len(REPLICATE_KEYS)], []).append(pair)
    keys, where = ", ".join(varying[:3]), f"--where {varying[0]}=VALUE compares at one value"
    if len(by_seed) == 1:
        note = (
            f"all runs have the same seed, so the pairs differ in {keys} alone: the interval says how much the "
            f"difference depends on that, and nothing about other seeds; {where}"
        )
        return list(pairs.values()), [note]
    means = [tuple(math.fsum(side) / len(own) for side in zip(*own, strict=True)) for own in by_seed.values()]
    note = f"each pair is the mean over {keys} of the runs with one seed, because these are not independent; {where}"
    return [(one, other) for one, other in means], [note]


def _fold_note(shared: Sequence[Setting]) -> list[str]:
    if len({key[REPLICATE_KEYS.index("data.fold")] for key in shared}) == 1:
        return []
    return ["folds share training images, so their interval is somewhat too narrow (Nadeau and Bengio, 2003)"]


def _varying(group: Group) -> dict[str, None]:
    """The settings that differ within the group, in order."""
    keys = dict.fromkeys(key for run in group.runs for key in run.settings)
    return {key: None for key in keys if len({run.settings.get(key) for run in group.runs}) > 1}


def _values(group: Group, keys: Sequence[str], metric: str) -> dict[Setting, float]:
    """The finite values of ``metric`` by the values of ``keys``; of equal runs the newest counts."""
    values = {}
    for run in group.runs:
        value = run.value(metric)
        if value is not None:
            values[tuple(run.settings.get(key) for key in keys)] = value
    return values


def _notes(group: Group, values: Mapping[Setting, float], metric: str) -> list[str]:
    notes = [
        f"{group.source or group.name}: {_runs(count)} {reason}, not counted"
        for reason, count in group.left_out.items()
    ]
    without = sum(run.value(metric) is None for run in group.runs)
    repeated = len(group.runs) - without - len(values)
    notes += [f"{group.name}: {_runs(without)} without a finite {metric} on all images, not counted"] if without else []
    return [*notes, *([f"{group.name}: {_runs(repeated)} that repeat another one, not counted"] if repeated else [])]


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _check_validation(first: Group, second: Group, metric: str, *, paired: bool) -> None:
    """Refuse a validation metric that was measured on different images. Pairs share fold and split seed already."""
    if not metric.startswith("val/"):
        return
    keys = [key for key in _VALIDATION_KEYS if not (paired and key in REPLICATE_KEYS)]
    for key in keys:
        one, other = ({run.settings.get(key) for run in group.runs} for group in (first, second))
        if one != other:
            raise ConfigError(
                "FOLDER", f"{first.name}, {second.name}",
                f"validate on different images ({key}={_values_text(one)} and {_values_text(other)}); "
                f"--metric test/accuracy compares on the test set",
            )  # fmt: skip


def _values_text(values: set[Value]) -> str:
    return ",".join(sorted(map(show, values)))


def _no_partner(first: Group, second: Group, varying: Sequence[str]) -> str:
    differing = []
    for key in varying:
        one, other = ({run.settings.get(key) for run in group.runs} for group in (first, second))
        if one != other:
            differing.append(f"{key}={_values_text(one)} against {_values_text(other)}")
    reason = f" ({'; '.join(differing[:3])})" if differing else ""
    return f"no two runs agree in all other settings{reason}: choose runs with --where KEY=VALUE"
