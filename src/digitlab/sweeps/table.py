"""The answer of a sweep: its settings from best to worst, the effect of each swept value, and the winner.

All of it goes by the monitored metric, never by the test set. Runs that differ only in ``seed`` are replicates of one
setting.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeGuard

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import DigitlabError, show
from digitlab.sweeps.state import SweepRun
from digitlab.sweeps.statistics import Summary

# A value as it was swept, in Python's types; lists, which can't be compared, as one types them.
Value = str | int | float | bool | None
Setting = tuple[Value, ...]

# More numbers than that, and the effect of a key is told by so many ranges of them.
_MOST_VALUES = 12
_RANGES = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its values in the order of ``SweepTable.keys``, its runs, and the summary of those that finished."""

    setting: Setting
    runs: list[SweepRun]
    summary: Summary | None

    @property
    def failed(self) -> int:
        return sum(run.status == "failed" for run in self.runs)

    @property
    def halved(self) -> list[int]:
        """After which epochs halving ended runs of it."""
        epochs = {run.result.get("halved_after_epoch") for run in self.runs}
        return sorted(epoch for epoch in epochs if epoch is not None)

    @property
    def complete(self) -> bool:
        return all(run.status == "finished" for run in self.runs)


class SweepTable:
    """What ``runs``, all of a sweep called ``name`` in their order, come to.

    ``metric`` is the monitored one, None while no run has finished; runs with another one are not compared. ``keys``
    are those that the runs differ in, but for ``seed``.
    """

    def __init__(self, name: str, runs: Sequence[SweepRun]) -> None:
        self.name, self.runs = name, list(runs)
        typed = {run.entry.number: _values(run.entry.overrides) for run in runs}
        names = dict.fromkeys(key for values in typed.values() for key in values)
        self.values = {
            run.entry.number: {key: _value_of(run, key, typed[run.entry.number]) for key in names} for run in runs
        }
        self.keys = [key for key in names if key != "seed" and len({v[key] for v in self.values.values()}) > 1]
        self.metric = next((run.metric for run in runs if run.metric is not None), None)

    def setting(self, run: SweepRun) -> Setting:
        return tuple(self.values[run.entry.number][key] for key in self.keys)

    def compared(self, runs: Iterable[SweepRun]) -> list[float]:
        """The monitored values of those of ``runs`` that have one."""
        return [run.value for run in runs if run.value is not None and run.metric == self.metric]

    def _summary(self, runs: Iterable[SweepRun]) -> Summary | None:
        values = self.compared(runs)
        # Accuracies and F1 are shares; a loss knows no upper bound.
        most = math.inf if metric_direction(self.metric) == "min" else 1.0
        return Summary.of(values, within=(0.0, most)) if values else None

    @cached_property
    def rows(self) -> list[Row]:
        """The settings, the best mean first; behind them those that lack a run, and last those without any.

        A mean over the runs that did not fail would favour a setting that often fails.
        """
        groups: dict[Setting, list[SweepRun]] = {}
        for run in self.runs:
            groups.setdefault(self.setting(run), []).append(run)
        rows = [Row(setting, runs, self._summary(runs)) for setting, runs in groups.items()]
        sign = 1 if self.metric is not None and metric_direction(self.metric) == "min" else -1

        def rank(row: Row) -> tuple[int, float]:
            if row.summary is None:
                return 2, 0.0
            return (0 if row.complete else 1), sign * row.summary.mean

        return sorted(rows, key=rank)

    @cached_property
    def effects(self) -> dict[str, list[tuple[Value, Summary]]]:
        """For each key the marginal mean of each of its values: over all finished runs that have it."""
        return {key: self._effect(key) for key in self.keys}

    def _effect(self, key: str) -> list[tuple[Value, Summary]]:
        groups: dict[Value, list[SweepRun]] = {}
        for run in self.runs:
            groups.setdefault(self.values[run.entry.number][key], []).append(run)
        means = [(value, self._summary(groups[value])) for value in in_order(groups)]
        return [(value, mean) for value, mean in means if mean is not None]

    def effect_rows(self, key: str) -> list[tuple[str, Summary]]:
        """The effect of ``key`` to be read: that of each value, and of many numbers, as of a search, by ranges."""
        effect = self.effects[key]
        values = [value for value, _ in effect]
        if len(values) <= _MOST_VALUES or not all(_is_number(value) for value in values):
            return [(show(value), mean) for value, mean in effect]
        cuts = [len(values) * part // _RANGES for part in range(_RANGES + 1)]
        rows = []
        for low, high in pairwise(cuts):
            inside = [run for run in self.runs if self.values[run.entry.number][key] in values[low:high]]
            rows.append((f"{show(values[low])} to {show(values[high - 1])}", Summary.of(self.compared(inside))))
        return rows

    @cached_property
    def winner(self) -> SweepRun | None:
        """The best run of the best setting; None while no run has finished."""
        if not self.rows or self.rows[0].summary is None:
            return None
        finished = [run for run in self.rows[0].runs if run.value is not None and run.metric == self.metric]
        sign = -1 if metric_direction(self.metric) == "min" else 1
        return max(finished, key=lambda run: sign * (run.value or 0.0))

    def failures(self) -> list[SweepRun]:
        return [run for run in self.runs if run.status == "failed"]


def in_order(values: Iterable[Value]) -> list[Value]:
    """Numbers in order, and behind them words as they came."""
    values = list(dict.fromkeys(values))
    numbers = [value for value in values if _is_number(value)]
    return [*sorted(numbers), *(value for value in values if not _is_number(value))]


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _values(overrides: Sequence[str]) -> dict[str, Value]:
    """What a run's overrides set, by key."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {each.get_key_element().lstrip("+~"): _comparable(each.value()) for each in parsed}


def _comparable(value: Any) -> Value:
    return value if value is None or isinstance(value, str | int | float | bool) else show(value)


def _value_of(run: SweepRun, key: str, typed: Mapping[str, Value]) -> Value:
    """Of a key that was not typed for this run but for others: what its configuration says."""
    if key in typed:
        return typed[key]
    try:
        choices = run.folder.read_choices()
        if key in choices:
            return choices[key]
        return _comparable(OmegaConf.select(run.folder.read_config(), key))
    except (OSError, DigitlabError):
        return None  # not begun
