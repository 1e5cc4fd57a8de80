"""Compares groups of runs: pairs their runs by seed, fold and all other settings, and tests the differences.

``digitlab compare``, the Python API and the report of a sweep use it. ``compare.wording`` writes the results as text.
A group is the runs of one folder or with one value of a key (see ``compare.groups``). Nothing here imports torch.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from digitlab.compare.groups import Group
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
from digitlab.config.values import Value
from digitlab.core.errors import ConfigError, listed, show
from digitlab.results.data_set import data_set_name

# These keys decide which images validate. A validation metric can be compared only if the runs agree in them. They may
# differ in the number of training images (data.train_size).
_VALIDATION_KEYS = ("data.val_size", "data.folds", "data.fold", "data.split_seed")
# The keys that say which data set a run uses. ``data.root``, the folder of its files, makes no difference.
_DATA_SET_PREFIX = "data.source."
# A difference is significant if its corrected p-value is below this level.
SIGNIFICANT = 0.05

# The values of the keys in which two runs must agree to form a pair.
PairKey = tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two groups and the difference ``first`` minus ``second`` in ``metric``, where ``first`` has the better mean.

    ``pairs`` holds the compared values as (first, second); it is empty if the runs are not paired.
    ``corrected_p_value`` is corrected for all ``tests`` comparisons (Holm, 1979); it is None if there is no p-value.
    ``notes`` say which runs were left out and what limits the result.
    """

    first: str
    second: str
    metric: str
    difference: Difference
    pairs: Sequence[tuple[float, float]] = ()
    corrected_p_value: float | None = None
    tests: int = 1
    notes: Sequence[str] = ()

    @property
    def significant(self) -> bool:
        return self.corrected_p_value is not None and self.corrected_p_value < SIGNIFICANT


def monitored_metric(groups: Sequence[Group]) -> str:
    """Return the metric that all runs monitor. Raises ``ConfigError`` if they monitor several."""
    metrics = sorted({run.monitor for group in groups for run in group.runs})
    if len(metrics) > 1:
        raise ConfigError("--metric", None, f"the runs monitor different metrics: choose one of {', '.join(metrics)}")
    return metrics[0]


def compare_groups(groups: Sequence[Group], metric: str) -> list[Comparison]:
    """Compare each group with each other one, the best group first.

    Two runs form a pair if they agree in seed, fold, split, and in all settings that vary within one of the groups. If
    each group only repeats one setting and no run has a partner, the groups are compared without pairs.

    Raises ``ConfigError`` if the runs can't be compared: their data sets or validation images differ, a group has no
    run with the metric, or the settings vary within a group and no run has a partner.
    """
    _check_metric(groups, metric)
    _check_data(groups)
    best_first = sorted(groups, key=lambda group: _rank(group, metric))
    return _corrected([_compare(*two_groups, metric) for two_groups in itertools.combinations(best_first, 2)])


def compare_with_reference(reference: Group, others: Sequence[Group], metric: str) -> list[Comparison]:
    """Compare ``reference`` with each of ``others``, in their order, as ``compare_groups`` does but without resampling.

    Without bootstrap intervals and permutation tests, each comparison takes only milliseconds, so a sweep can have many
    settings.
    """
    _check_metric([reference, *others], metric)
    _check_data([reference, *others])
    return _corrected([_compare(reference, other, metric, resamples=0) for other in others])


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p-values that are corrected for all of them."""
    p_values = {
        index: each.difference.p_value for index, each in enumerate(comparisons) if each.difference.p_value is not None
    }
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [
        replace(each, corrected_p_value=corrected.get(index), tests=len(comparisons))
        for index, each in enumerate(comparisons)
    ]


def _check_metric(groups: Sequence[Group], metric: str) -> None:
    """Raise ``ConfigError`` if a group has no run with the metric."""
    for group in groups:
        known = {name for run in group.runs for name in run.metrics if run.value(name) is not None}
        if metric not in known:
            hint = " (runs with test=none have no metrics of the test set)" if metric.startswith("test/") else ""
            raise ConfigError("--metric", metric, f"no run of {group.name} has it{hint}{nearest(metric, known)}")


def _check_data(groups: Sequence[Group]) -> None:
    """Raise ``ConfigError`` if the runs use different data sets."""
    # If Python code chose the data, the name is only that of a class. So the settings of the source, which are the same
    # for the same data, distinguish the data sets, and the names are for the message.
    names: dict[Any, str] = {}
    for group in groups:
        for run in group.runs:
            choice = run.choices.get("data", str(run.settings.get("data.source._target_")))
            node = {key.removeprefix("data."): value for key, value in run.settings.items() if key.startswith("data.")}
            name = data_set_name(choice, node)
            source = tuple((key, value) for key, value in run.settings.items() if key.startswith(_DATA_SET_PREFIX))
            # Folders of pictures and EMNIST have no source in their configuration; their names are unique.
            names[source or name] = name
    if len(names) > 1:
        different = ", ".join(sorted(set(names.values())))
        raise ConfigError("FOLDER", ", ".join(group.name for group in groups), f"different data sets: {different}")


def _rank(group: Group, metric: str) -> float:
    """Return a number to sort groups by their mean, best first; groups without a value come last."""
    values = [value for run in group.runs if (value := run.value(metric)) is not None]
    if not values:
        return math.inf
    mean = _mean(values)
    return mean if metric_direction(metric) == "min" else -mean


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _compare(first: Group, second: Group, metric: str, *, resamples: int = RESAMPLES) -> Comparison:
    """Compare two groups by pairs of runs, or without pairs if each group repeats one setting with its own seeds.

    The p-value of the result is not corrected yet. Raises ``ConfigError`` if neither is possible.
    """
    # A key that varies within one group is not the difference between the groups, so pairs must agree in it.
    varying = [key for key in _varying_keys(first) | _varying_keys(second) if key not in REPLICATE_KEYS]
    pair_keys = [*REPLICATE_KEYS, *varying]
    first_values, second_values = (_values(group, pair_keys, metric) for group in (first, second))
    notes = [*_notes(first, first_values, metric), *_notes(second, second_values, metric)]
    shared = [key for key in first_values if key in second_values]
    if shared:
        _check_validation(first, second, metric, paired=True)
        unpaired = len(first_values) + len(second_values) - 2 * len(shared)
        notes += [f"{_runs(unpaired)} without a partner, not counted"] if unpaired else []
        by_key = {key: (first_values[key], second_values[key]) for key in shared}
        pairs, pair_notes = _independent_pairs(by_key, varying)
        notes += [*pair_notes, *_fold_note(shared)]
        difference = paired_difference(*zip(*pairs, strict=True), resamples=resamples)
    elif varying:
        raise ConfigError("FOLDER", f"{first.name}, {second.name}", _no_partner_reason(first, second, varying))
    else:
        _check_validation(first, second, metric, paired=False)
        pairs, notes = [], [*notes, "the seeds differ, so the runs are not paired"]
        difference = unpaired_difference(list(first_values.values()), list(second_values.values()), resamples=resamples)
    # The groups were ordered by the means of all their runs. In the runs that are compared, the other may be better.
    if difference.mean * (-1 if metric_direction(metric) == "min" else 1) < 0:
        first, second, difference = second, first, swapped(difference)
        pairs = [(right, left) for left, right in pairs]
    return Comparison(
        first=first.name, second=second.name, metric=metric, difference=difference, pairs=pairs,
        notes=list(dict.fromkeys(notes)),
    )  # fmt: skip


def _independent_pairs(
    pairs: Mapping[PairKey, tuple[float, float]], varying: Sequence[str]
) -> tuple[list[tuple[float, float]], list[str]]:
    """Average the pairs of each seed and fold; return one pair for each, and a note that says so.

    The keys of ``pairs`` begin with the values of ``REPLICATE_KEYS``. Runs with the same seed have the same initial
    weights and mini-batches, so their differences are not independent. If each of them counted as a pair, the interval
    would be too narrow.
    """
    if not varying:
        return list(pairs.values()), []
    by_seed: dict[PairKey, list[tuple[float, float]]] = {}
    for key, pair in pairs.items():
        by_seed.setdefault(key[: len(REPLICATE_KEYS)], []).append(pair)
    # More keys would make the note too long.
    keys, advice = ", ".join(varying[:3]), f"--where {varying[0]}=VALUE compares at one value"
    if len(by_seed) == 1:
        note = (
            f"all runs have the same seed, so the pairs differ in {keys} alone: the interval says how much the "
            f"difference depends on that, and nothing about other seeds; {advice}"
        )
        return list(pairs.values()), [note]
    means = [
        (_mean([first for first, _ in same_seed]), _mean([second for _, second in same_seed]))
        for same_seed in by_seed.values()
    ]
    note = f"each pair is the mean over {keys} of the runs with one seed, because these are not independent; {advice}"
    return means, [note]


def _fold_note(shared: Sequence[PairKey]) -> list[str]:
    """Return a note if the pairs belong to several folds."""
    if len({key[REPLICATE_KEYS.index("data.fold")] for key in shared}) == 1:
        return []
    return ["folds share training images, so their interval is somewhat too narrow (Nadeau and Bengio, 2003)"]


def _varying_keys(group: Group) -> dict[str, None]:
    """Return the keys in which runs of the group differ, as a dict, which is a set with an order."""
    keys = dict.fromkeys(key for run in group.runs for key in run.settings)
    return {key: None for key in keys if len({run.settings.get(key) for run in group.runs}) > 1}


def _values(group: Group, keys: Sequence[str], metric: str) -> dict[PairKey, float]:
    """Return the finite values of ``metric`` by the values of ``keys``; the newest of several equal runs counts."""
    values = {}
    # The runs are in the order in which they were started, so the value of a newer run replaces an older one.
    for run in group.runs:
        value = run.value(metric)
        if value is not None:
            values[tuple(run.settings.get(key) for key in keys)] = value
    return values


def _notes(group: Group, values: Mapping[PairKey, float], metric: str) -> list[str]:
    """Return notes on the runs of the group that are not compared; ``values`` are the values of those that are."""
    notes = [
        f"{group.source or group.name}: {_runs(count)} {reason}, not counted"
        for reason, count in group.reasons().items()
    ]
    without_value = sum(run.value(metric) is None for run in group.runs)
    if without_value:
        notes.append(f"{group.name}: {_runs(without_value)} without a finite {metric} on all images, not counted")
    repeated = len(group.runs) - without_value - len(values)
    if repeated:
        notes.append(f"{group.name}: {_runs(repeated)} that repeat another one, not counted")
    return notes


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _check_validation(first: Group, second: Group, metric: str, *, paired: bool) -> None:
    """Raise ``ConfigError`` if the metric was measured on different validation images."""
    if not metric.startswith("val/"):
        return
    # The two runs of a pair have the same fold and split seed.
    keys = [key for key in _VALIDATION_KEYS if not (paired and key in REPLICATE_KEYS)]
    for key in keys:
        first_settings, second_settings = _settings_of(first, key), _settings_of(second, key)
        if first_settings != second_settings:
            raise ConfigError(
                "FOLDER", f"{first.name}, {second.name}",
                f"validate on different images ({key}={_text(first_settings)} and {_text(second_settings)}); "
                f"--metric test/accuracy compares on the test set",
            )  # fmt: skip


def _settings_of(group: Group, key: str) -> set[Value]:
    return {run.settings.get(key) for run in group.runs}


def _text(settings: set[Value]) -> str:
    return listed(sorted(map(show, settings)), separator=",")


def _no_partner_reason(first: Group, second: Group, varying: Sequence[str]) -> str:
    """Return what an error says if no run has a partner; it names up to three keys in which the groups differ."""
    differing = []
    for key in varying:
        first_settings, second_settings = _settings_of(first, key), _settings_of(second, key)
        if first_settings != second_settings:
            differing.append(f"{key}={_text(first_settings)} against {_text(second_settings)}")
    reason = f" ({'; '.join(differing[:3])})" if differing else ""
    return f"no two runs agree in all other settings{reason}: choose runs with --where KEY=VALUE"
