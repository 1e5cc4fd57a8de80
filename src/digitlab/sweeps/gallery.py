"""The figures of a sweep: its table and its runs' curves, handed to ``digitlab.figures.sweeps`` and saved."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from digitlab.core.errors import show
from digitlab.core.files import write_atomically
from digitlab.figures.style import png
from digitlab.figures.sweeps import Effect, curve_figure, effect_figure, pair_figure, parallel_figure
from digitlab.results.folder import RunFolder
from digitlab.sweeps.manifest import folder_name
from digitlab.sweeps.statistics import Summary
from digitlab.sweeps.table import SweepTable, Value

# A heat map with more columns or rows, as of a random search, could not be read.
_MOST_VALUES = 12


def write_figures(table: SweepTable, folder: Path) -> list[Path]:
    """Draw all figures of ``table``, of which at least one run has finished, into ``folder``; their paths."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in _figures(table):
        path = folder / f"{folder_name(name)}.png"
        write_atomically(path, png(figure))
        paths.append(path)
    return paths


def _figures(table: SweepTable) -> Iterator[tuple[str, Figure]]:
    assert table.metric is not None
    for key in table.keys:
        yield f"by_{key}", effect_figure(_effects(table, key), key=key, metric=table.metric)
    few = [key for key in table.keys if len(_known(table, key)) <= _MOST_VALUES]
    for one, other in itertools.combinations(few, 2):
        values = (_known(table, one), _known(table, other))
        means = _pair_means(table, one, other)
        yield f"by_{one}_and_{other}", pair_figure(means, keys=(one, other), metric=table.metric, values=values)
    settings = [(row.setting, row.summary.mean) for row in table.rows if row.summary is not None]
    if len(table.keys) > 1:
        known = [_known(table, key) for key in table.keys]
        yield "settings", parallel_figure(settings, keys=table.keys, metric=table.metric, values=known)
    histories = _histories(table)
    if histories:
        yield "curves", curve_figure(histories, metric=table.metric)


def _known(table: SweepTable, key: str) -> list[Value]:
    return [value for value, _ in table.effects[key]]


def _effects(table: SweepTable, key: str) -> list[Effect]:
    def measured(value: Value) -> list[float]:
        return table.compared(run for run in table.runs if table.values[run.entry.number][key] == value)

    return [Effect(value, summary.mean, summary.interval, measured(value)) for value, summary in table.effects[key]]


def _pair_means(table: SweepTable, one: str, other: str) -> dict[tuple[Value, Value], float]:
    groups: dict[tuple[Value, Value], list[float]] = {}
    for run in table.runs:
        values = table.values[run.entry.number]
        groups.setdefault((values[one], values[other]), []).extend(table.compared([run]))
    return {pair: Summary.of(measured).mean for pair, measured in groups.items() if measured}


def _histories(table: SweepTable) -> list[tuple[str, list[tuple[int, float]]]]:
    """The monitored metric of each run by epoch, best settings first."""
    histories = []
    for row in table.rows:
        name = ", ".join(f"{key.rpartition('.')[2]}={show(v)}" for key, v in zip(table.keys, row.setting, strict=True))
        for run in row.runs:
            history = _history(run.folder, table.metric or "")
            histories += [(name or "all runs", history)] if history else []
    return histories


def _history(folder: RunFolder, metric: str) -> list[tuple[int, float]]:
    if not folder.metrics.exists():
        return []
    with folder.metrics.open(encoding="utf-8") as file:
        return [(int(row["epoch"]), float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]
