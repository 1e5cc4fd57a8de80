"""Makes the figures of a sweep from its table and its runs' curves and saves them; ``digitlab sweep`` calls it.

``digitlab.figures.sweeps`` draws; this module only collects the numbers. The figures that show a whole sweep at once
are made in ``summary_figures``.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from digitlab.config.values import Value
from digitlab.core.errors import show
from digitlab.core.files import write_atomically
from digitlab.figures.style import Format, Width, encode, figure_width
from digitlab.figures.sweeps import Effect, curve_figure, effect_figure, pair_figure
from digitlab.results.history import read_history
from digitlab.sweeps.effects import in_order
from digitlab.sweeps.importance import Importances
from digitlab.sweeps.manifest import folder_name
from digitlab.sweeps.statistics import Summary
from digitlab.sweeps.summary_figures import pair_groups, summary_figures
from digitlab.sweeps.table import SweepTable

# A heat map with more columns or rows, as a random search would need, is illegible.
_MAX_HEAT_MAP_VALUES = 12


def write_figures(
    table: SweepTable,
    folder: Path,
    importances: Mapping[str, Importances] | None = None,
    *,
    file_format: Format = "png",
    width: Width | None = None,
) -> list[Path]:
    """Draw all figures of ``table`` into ``folder`` and return their paths; at least one run must have finished.

    If the sweep covers several data sets, each has a subfolder and a table of its own. ``importances`` maps the name of
    such a table to the importance of its keys, if that was computed. ``width`` is that of a paper's column or page;
    None means the usual size.
    """
    # In one figure of MNIST and CIFAR-10, the scale would hide all differences within each data set.
    parts = table.by_data_set()
    paths = []
    for part in parts:
        subfolder = folder if len(parts) == 1 else folder / folder_name(part.name)
        subfolder.mkdir(parents=True, exist_ok=True)
        if part.metric is None:
            continue  # a data set without a finished run has nothing to draw yet
        with figure_width(width):
            for name, figure in _figures(part, (importances or {}).get(part.name)):
                path = subfolder / f"{folder_name(name)}.{file_format}"
                write_atomically(path, encode(figure, file_format))
                paths.append(path)
    return paths


def _figures(table: SweepTable, importances: Importances | None) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the drawing of each figure."""
    assert table.metric is not None
    values = {key: tried_values(table, key) for key in table.keys}
    for key in table.keys:
        yield f"by_{key}", effect_figure(_effects(table, key), key=key, metric=table.metric)
    # The figures of two keys show whether the effect of one depends on the other.
    keys_with_few_values = [key for key in table.keys if len(values[key]) <= _MAX_HEAT_MAP_VALUES]
    for one, other in itertools.combinations(keys_with_few_values, 2):
        # By the values of both keys, the monitored values of the finished runs and the number of failed runs.
        groups = pair_groups(table, one, other)
        means = {pair: Summary.of(measured).mean for pair, (measured, _) in groups.items() if measured}
        figure = pair_figure(
            means, counts={pair: len(measured) for pair, (measured, _) in groups.items()}, keys=(one, other),
            metric=table.metric, values=(values[one], values[other]),
            failed={pair: failures for pair, (_, failures) in groups.items()},
        )  # fmt: skip
        yield f"by_{one}_and_{other}", figure
    yield from summary_figures(table, importances)
    histories = _histories(table)
    if histories:
        yield "curves", curve_figure(histories, metric=table.metric)


def tried_values(table: SweepTable, key: str) -> list[Value]:
    """Return the values of ``key`` with at least one finished or failed run, in order."""
    tried = (run for run in table.runs if run.status == "failed" or table.compared([run]))
    return in_order(table.values[run.entry.number][key] for run in tried)


def _effects(table: SweepTable, key: str) -> list[Effect]:
    """Return each value of ``key`` with its runs, for the figure of this key.

    Its error bar is the interval of the difference to the best value, over pairs of runs (see ``effects``). An interval
    over all runs with the value would mostly show how much the other settings differ.
    """
    # The effects of bins are left out, because a bin has no single value.
    differences: dict[Value, Summary | None] = {
        effect.value: effect.difference for effect in table.effects[key] if effect.value is not None
    }
    effects = []
    for value in tried_values(table, key):
        runs = [run for run in table.runs if table.values[run.entry.number][key] == value]
        measured, difference = table.compared(runs), differences.get(value)
        mean = Summary.of(measured).mean if measured else None
        # The interval is moved to the plotted mean. In an incomplete grid, the mean is not the reference plus the
        # difference.
        interval = None
        if mean is not None and difference is not None and difference.interval is not None:
            low, high = difference.interval
            interval = mean + low - difference.mean, mean + high - difference.mean
        effects.append(Effect(value, mean, interval, measured, sum(run.status == "failed" for run in runs)))
    return effects


def _histories(table: SweepTable) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return a name and the curve of the monitored metric, as pairs (epoch, value), for each run.

    The runs of the best settings come first, because the legend shows only the first few names.
    """
    metric = table.metric or ""
    histories = []
    for row in table.rows:
        # The last part of a key is enough in a legend: lr for optimizer.lr.
        name = ", ".join(f"{key.rpartition('.')[2]}={show(v)}" for key, v in zip(table.keys, row.setting, strict=True))
        for run in row.runs:
            history = [
                (epoch.epoch, epoch.values[metric]) for epoch in read_history(run.folder) if metric in epoch.values
            ]
            histories += [(name or "all runs", history)] if history else []
    return histories
