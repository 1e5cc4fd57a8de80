"""The result of a sweep: its settings from best to worst, the effect of each swept value, and the best runs.

A setting is the swept values of a run without its seed, fold and split seed; it usually has several runs. Everything is
ranked by the monitored metric and never by the test set. ``sweeps.report``, ``sweeps.gallery`` and the HTML reports use
this module.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from digitlab.config.metrics import metric_direction
from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.config.values import Value
from digitlab.core.errors import DigitlabError, show
from digitlab.results.data_set import data_set_name
from digitlab.sweeps.effects import Observation, ValueEffect, value_effects
from digitlab.sweeps.state import SweepRun
from digitlab.sweeps.statistics import Summary

Setting = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its values in the order of ``SweepTable.keys``, its runs, and statistics of the finished runs."""

    setting: Setting
    runs: list[SweepRun]
    summary: Summary | None

    @property
    def failed(self) -> int:
        return sum(run.status == "failed" for run in self.runs)

    @property
    def halved(self) -> list[int]:
        """The epochs after which halving, which ends worse runs early, ended runs of this setting."""
        epochs = {run.result.get("halved_after_epoch") for run in self.runs}
        return sorted(epoch for epoch in epochs if epoch is not None)

    @property
    def complete(self) -> bool:
        return all(run.status == "finished" for run in self.runs)

    def test_summary(self, metric: str) -> Summary | None:
        """The summary of a test metric over the finished runs; None if no run measured it."""
        measured = [run.metrics.get(metric) for run in self.runs if run.status == "finished"]
        values = [value for value in measured if value is not None]
        return Summary.of(values) if values else None


class SweepTable:
    """The result of ``runs``, all runs of the sweep ``name`` ordered by number.

    ``metric`` is the monitored metric of the first finished run, or None if no run has finished. Runs that monitor
    another metric are listed but not compared. ``values`` holds the value of each typed key, by run number. ``swept``
    are the keys in which runs differ. ``keys`` are those in which settings differ, so ``REPLICATE_KEYS`` are left out.
    """

    def __init__(self, name: str, runs: Sequence[SweepRun]) -> None:
        self.name, self.runs = name, list(runs)
        # The values are those that the user typed, because they are short, and interpolations in them stay readable.
        typed = {run.entry.number: _values(run.entry.overrides) for run in runs}
        names = dict.fromkeys(key for values in typed.values() for key in values)
        self.values = {
            run.entry.number: {key: _value_of(run, key, typed[run.entry.number]) for key in names} for run in runs
        }
        # A key that has the same value in all runs does not distinguish settings.
        self.swept = [key for key in names if len({values[key] for values in self.values.values()}) > 1]
        self.keys = [key for key in self.swept if key not in REPLICATE_KEYS]
        # Runs of one sweep monitor the same metric, unless monitor.metric itself was swept.
        self.metric = next((run.metric for run in runs if run.metric is not None), None)

    def by_data_set(self) -> list["SweepTable"]:
        """Return one table for each data set, because values on different data sets can't be ranked.

        Most sweeps have one data set; then the list has only this table.
        """
        groups: dict[str | None, list[SweepRun]] = {}
        for run in self.runs:
            groups.setdefault(self.data_sets[run.entry.number], []).append(run)
        # The data set of a run that has not started may be unknown. If the others have one data set, it is this one.
        known_names = [name for name in groups if name is not None]
        if len(known_names) < 2:
            return [self]
        return [SweepTable(f"{self.name}, {name or 'data set unknown'}", runs) for name, runs in groups.items()]

    @cached_property
    def data_sets(self) -> dict[int, str | None]:
        """The name of the data set by run number; None if the run has not started and its overrides name none."""
        names = {}
        for run in self.runs:
            name = run.read_data_set()
            values = self.values[run.entry.number]
            # Before a run has started, only its overrides say which data set it will use.
            typed = {key.removeprefix("data."): value for key, value in values.items() if key.startswith("data.")}
            choice = values.get("data")
            names[run.entry.number] = name if name or choice is None else data_set_name(str(choice), typed)
        return names

    def setting(self, run: SweepRun) -> Setting:
        return tuple(self.values[run.entry.number][key] for key in self.keys)

    def compared(self, runs: Iterable[SweepRun]) -> list[float]:
        """Return the monitored values of those of ``runs`` that are compared: they finished and monitor ``metric``."""
        return [run.value for run in self._comparable(runs) if run.value is not None]

    def _comparable(self, runs: Iterable[SweepRun]) -> list[SweepRun]:
        return [run for run in runs if run.value is not None and run.metric == self.metric]

    @property
    def _direction(self) -> Literal["min", "max"]:
        return "max" if self.metric is None else metric_direction(self.metric)

    @property
    def _bounds(self) -> tuple[float, float]:
        # Accuracy and F1 lie in [0, 1]; a loss has no upper bound.
        return 0.0, math.inf if self._direction == "min" else 1.0

    @cached_property
    def rows(self) -> list[Row]:
        """The settings in three parts: complete ones, those that lack a run, and those without a finished run.

        Within a part, the best mean comes first. A setting with a failed or unfinished run can't be the best one,
        because the mean over the remaining runs favours a setting that often fails.
        """
        groups: dict[Setting, list[SweepRun]] = {}
        for run in self.runs:
            groups.setdefault(self.setting(run), []).append(run)
        rows = []
        for setting, runs in groups.items():
            values = self.compared(runs)
            rows.append(Row(setting, runs, Summary.of(values, within=self._bounds) if values else None))
        # The sign with which lower is better, because sorting is in ascending order.
        sign = 1 if self._direction == "min" else -1

        def rank(row: Row) -> tuple[int, float]:
            if row.summary is None:
                return 2, 0.0
            return (0 if row.complete else 1), sign * row.summary.mean

        return sorted(rows, key=rank)

    @cached_property
    def effects(self) -> dict[str, list[ValueEffect]]:
        """The effect of each value by key; the lists are empty if no run has finished."""
        replicates = [key for key in self.swept if key in REPLICATE_KEYS]
        observations = []
        for run in self._comparable(self.runs):
            values = self.values[run.entry.number]
            assert run.value is not None
            setting, replicate = {key: values[key] for key in self.keys}, tuple(values[key] for key in replicates)
            observations.append(Observation(setting, replicate, run.value, run.result.get("halved_after_epoch")))
        return {
            key: value_effects(observations, key, direction=self._direction, within=self._bounds) for key in self.keys
        }

    @cached_property
    def winner(self) -> SweepRun | None:
        """The best run of the best setting; None while no run has finished."""
        return self._best(self.rows[0].runs) if self.rows else None

    @cached_property
    def best_run(self) -> SweepRun | None:
        """The run with the best value of all, which may have another setting than the best one."""
        return self._best(self.runs)

    def _best(self, runs: Iterable[SweepRun]) -> SweepRun | None:
        # The sign with which higher is better.
        sign = -1 if self._direction == "min" else 1
        return max(self._comparable(runs), key=lambda run: sign * (run.value or 0.0), default=None)

    def failures(self) -> list[SweepRun]:
        return [run for run in self.runs if run.status == "failed"]


def _values(overrides: Sequence[str]) -> dict[str, Value]:
    """Return the values that the overrides of a run set, by key."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    # The forms key=1, +key=1 and ~key set the same key, so the table has one column for them.
    return {each.get_key_element().lstrip("+~"): _hashable(each.value()) for each in parsed}


def _hashable(value: Any) -> Value:
    # Settings are keys of dictionaries, so lists become text.
    return value if value is None or isinstance(value, str | int | float | bool) else show(value)


def _value_of(run: SweepRun, key: str, typed: Mapping[str, Value]) -> Value:
    """Return the value of ``key`` in a run. It is read from the configuration if the overrides don't have the key."""
    if key in typed:
        return typed[key]
    try:
        choices = run.folder.read_choices()
        if key in choices:
            return choices[key]
        return _hashable(OmegaConf.select(run.folder.read_config(), key))
    except (OSError, DigitlabError):
        return None  # the run has not started, so there is no configuration to read
