"""Compares groups of runs: pairs their runs by seed, fold and all other settings, and says the result in a sentence.

``digitlab compare`` and the report of a sweep use it. Nothing here imports torch.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from digitlab.compare.groups import Group, Value
from digitlab.compare.statistics import (
    Difference,
    detectable_difference,
    holm,
    paired_difference,
    unpaired_difference,
)  # fmt: skip
from digitlab.config.metrics import metric_direction
from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.config.suggestions import nearest
from digitlab.core.errors import ConfigError, show
from digitlab.figures.formatting import is_percentage
from digitlab.results.data_set import data_set_name

# Runs whose validation images differ can't be compared on them. The training images may differ (data.train_size).
_VALIDATION_KEYS = ("data.val_size", "data.folds", "data.fold", "data.split_seed")
# The data set itself; the file of the same data may have any place.
_DATA_PREFIX = "data.source."
_SIGNIFICANT = 0.05
# With fewer pairs, or without a significant difference, the sentence says what could have been shown.
_FEW_PAIRS = 5

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
        return self.corrected_p_value is not None and self.corrected_p_value < _SIGNIFICANT


def monitored_metric(groups: Sequence[Group]) -> str:
    """The metric that all runs monitor. Raises ``ConfigError`` if they monitor several."""
    metrics = sorted({run.monitor for group in groups for run in group.runs})
    if len(metrics) > 1:
        raise ConfigError("--metric", None, f"the runs monitor different metrics; choose one of {', '.join(metrics)}")
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
    found = [_compare(one, other, metric) for one, other in itertools.combinations(best_first, 2)]
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
            hint = " (test=none measures none on the test set)" if metric.startswith("test/") else ""
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


def _compare(first: Group, second: Group, metric: str) -> Comparison:
    # A key that varies within one group is not the difference between the groups, so pairs must agree in it.
    varying = [key for key in _varying(first) | _varying(second) if key not in REPLICATE_KEYS]
    pair_keys = [*REPLICATE_KEYS, *varying]
    one, other = (_values(group, pair_keys, metric) for group in (first, second))
    notes = [note for group, values in ((first, one), (second, other)) for note in _notes(group, values, metric)]
    shared = [key for key in one if key in other]
    if shared:
        _check_validation(first, second, metric, paired=True)
        unpaired = len(one) + len(other) - 2 * len(shared)
        notes += [f"{unpaired} runs without a partner are not counted"] if unpaired else []
        notes += _mixed_settings(varying)
        pairs = [(one[key], other[key]) for key in shared]
        difference = paired_difference(*zip(*pairs, strict=True))
    elif varying:
        raise ConfigError("FOLDER", f"{first.name}, {second.name}", _no_partner(first, second, varying))
    else:
        _check_validation(first, second, metric, paired=False)
        pairs, notes = [], [*notes, "the seeds differ, so the runs are not paired"]
        difference = unpaired_difference(list(one.values()), list(other.values()))
    used = [[pair[side] for pair in pairs] or list(own.values()) for side, own in enumerate((one, other))]
    means = (math.fsum(used[0]) / len(used[0]), math.fsum(used[1]) / len(used[1]))
    return Comparison(
        first=first.name, second=second.name, metric=metric, means=means, difference=difference, pairs=pairs,
        notes=notes,
    )  # fmt: skip


def _mixed_settings(varying: Sequence[str]) -> list[str]:
    """A warning if pairs differ in more than chance: the difference may depend on the other setting."""
    if not varying:
        return []
    return [f"the pairs cover several values of {', '.join(varying[:3])}; --where {varying[0]}=VALUE compares at one"]


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
    notes = [f"{group.name}: {count} runs {reason}, not counted" for reason, count in group.left_out.items()]
    without = sum(run.value(metric) is None for run in group.runs)
    repeated = len(group.runs) - without - len(values)
    notes += [f"{group.name}: {without} runs without a finite {metric} on all images, not counted"] if without else []
    return [*notes, *([f"{group.name}: {repeated} runs repeat another one, not counted"] if repeated else [])]


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
                f"--metric test/accuracy compares them on the test set",
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
    return f"no two runs agree in all other settings{reason}; --where KEY=VALUE chooses runs"


def sentence(comparison: Comparison) -> str:
    """The result in plain English, with interval, number of pairs and p-value.

    Too few pairs, or a difference that is not significant, add what could have been shown.
    """
    difference, unit = comparison.difference, _unit(comparison.metric)
    text = f"{comparison.first} is {_amount(abs(difference.mean), comparison.metric)}{unit} better than "
    text += comparison.second
    if difference.mean == 0:
        text = f"{comparison.first} and {comparison.second} are equally good"
    if difference.interval is None or comparison.corrected_p_value is None:
        return (
            f"{text} in {comparison.metric}: one run each, which says nothing about other seeds; repeat both with "
            "at least 5 seeds"
        )
    if not comparison.significant:
        text = f"No difference shown between {comparison.first} and {comparison.second}: "
        text += f"{_signed(_better(difference.mean, comparison.metric), comparison.metric)}{unit}"
    low, high = sorted(_better(bound, comparison.metric) for bound in difference.interval)
    pairs = f"{difference.count} pairs" if difference.paired else f"at least {difference.count} runs each, unpaired"
    p_value = f"p = {_p_text(comparison.corrected_p_value)}"
    if comparison.tests > 1:
        p_value += f" after correction for {comparison.tests} comparisons"
    text += f" in {comparison.metric} (95 % CI {_amount(low, comparison.metric)} to "
    text += f"{_amount(high, comparison.metric)}, {pairs}, {p_value})"
    return text + _could_show(comparison)


def _could_show(comparison: Comparison) -> str:
    difference, unit = comparison.difference, _unit(comparison.metric)
    if comparison.significant and difference.count >= _FEW_PAIRS:
        return ""
    if not difference.sd:
        return ""
    counts = (difference.count, 4 * difference.count)
    now, later = (
        _amount(detectable_difference(count, difference.sd, paired=difference.paired), comparison.metric)
        for count in counts
    )
    what = "pairs" if difference.paired else "runs each"
    return f". {counts[0]} {what} usually can't show less than {now}{unit}; {counts[1]} could show {later}"


def _better(value: float, metric: str) -> float:
    """Positive if the first group is better, whatever the direction of the metric."""
    return -value if metric_direction(metric) == "min" else value


def _unit(metric: str) -> str:
    return " points" if is_percentage(metric) else ""


def _amount(value: float, metric: str) -> str:
    """Percentages as points with two decimals, everything else with four digits."""
    return f"{100 * value:.2f}" if is_percentage(metric) else f"{value:.4g}"


def _signed(value: float, metric: str) -> str:
    return f"{100 * value:+.2f}" if is_percentage(metric) else f"{value:+.4g}"


def _p_text(p_value: float) -> str:
    return "0.0001 or less" if p_value <= 1e-4 else f"{p_value:.2g}"
