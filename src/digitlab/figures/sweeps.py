"""Figures of a sweep: the monitored metric against each swept key, pairs of keys, all keys, and epochs.

The functions take plain tables and return a Matplotlib figure; ``sweeps.gallery`` computes the tables for ``digitlab
sweep``. A key is a configuration key such as ``optimizer.lr``. A setting is one value for each swept key; its runs
differ only in seed or fold.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from digitlab.config.metrics import metric_direction
from digitlab.config.values import Value
from digitlab.figures.formatting import metric_scale, needs_log_scale
from digitlab.figures.style import (
    BACKGROUND_COLOUR,
    BLUE,
    GREEN,
    METRIC_MAP,
    ORANGE,
    PURPLE,
    TEXT_COLOUR,
    styled,
    text_colour_on,
)  # fmt: skip

# Styles of the best settings: (colour, line style, marker).
_BEST_STYLES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, ":", "^"), (PURPLE, "-.", "D"))
_LOW_TO_HIGH = LinearSegmentedColormap.from_list("low to high", [ORANGE, BLUE])
# A cross marks failed runs: near the lower edge, or in parallel coordinates below the axis of the metric.
_FAILED_MARK: dict[str, Any] = {"color": ORANGE, "markersize": 6, "markeredgewidth": 2, "zorder": 4}
# The heights of the cross as shares of the axis: in ``effect_figure``, and in ``parallel_figure``.
_FAILED_HEIGHT, _FAILED_END = 0.05, -0.08
# The figure of one key in inches: its width, about the width of its axis, and the space that text needs.
_EFFECT_WIDTH, _EFFECT_AXIS_WIDTH, _LETTER_WIDTH, _LINE_HEIGHT, _MAX_EFFECT_WIDTH = 4.2, 3.4, 0.06, 0.2, 12.0
_LABEL_OFFSET = 0.06  # distance of a value's label from its height, in heights of the axis


@dataclass(frozen=True, slots=True)
class Effect:
    """One value of a key and the metric of the runs that have this value.

    ``measured`` are the metrics of the finished runs, and ``mean`` is their mean (None if all runs failed). ``failed``
    is the number of failed runs. ``interval`` is the 95 % interval of the mean, or that of the difference to the best
    value, moved so that it lies around the mean; None if there is none.
    """

    value: Value
    mean: float | None
    interval: tuple[float, float] | None
    measured: Sequence[float]
    failed: int = 0


@styled
def effect_figure(
    effects: Sequence[Effect], *, key: str, metric: str, interval_of: str = "difference to the best"
) -> Figure:
    """Draw ``metric`` against the values of ``key``: one dot per run, the means joined by a line, intervals as bars.

    The label of each value gives n, the number of runs, and how many failed; a cross marks these as well. The title
    says what the intervals are of.
    """
    factor, metric_label = metric_scale(metric)
    figure = Figure(figsize=(_EFFECT_WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    counts = [f"n={len(each.measured)}" + (f"\n{each.failed} failed" if each.failed else "") for each in effects]
    positions = _x_positions(axes, [effect.value for effect in effects], key, counts)
    _turn_crowded_labels(figure, axes, positions)
    mean_positions, means, error_bars = [], [], []
    for position, effect in zip(positions, effects, strict=True):
        values = [factor * value for value in effect.measured]
        axes.plot([position] * len(values), values, "o", color=TEXT_COLOUR, alpha=0.5, zorder=2)
        if effect.failed:
            axes.plot([position], [_FAILED_HEIGHT], "x", transform=axes.get_xaxis_transform(), **_FAILED_MARK)
        if effect.mean is not None:
            mean_positions.append(position)
            means.append(factor * effect.mean)
            error_bars.append([0.0, 0.0] if effect.interval is None else _error_bar(effect.mean, effect.interval))
    axes.errorbar(
        mean_positions, means, factor * np.array(error_bars).T, fmt="s-", color=BLUE, capsize=4, markersize=5, zorder=3
    )
    # The limits ignore the intervals, because the interval of two runs can be much wider than all values together.
    _set_y_limits(axes, [*means, *(factor * value for effect in effects for value in effect.measured)])
    has_intervals = any(each.interval is not None for each in effects)
    axes.set(
        ylabel=metric_label,
        title="all runs and their mean" + f"\nbar: 95 % interval of the {interval_of}" * has_intervals,
    )
    return figure


def _error_bar(mean: float, interval: tuple[float, float]) -> list[float]:
    """Return the lengths of the error bar below and above the mean, as Matplotlib needs them."""
    return [mean - interval[0], interval[1] - mean]


def _set_y_limits(axes: Axes, values: Sequence[float]) -> None:
    """Leave a margin of 15 % of the range around the values, or of 5 % of the value if all are equal."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.15 or max(abs(high), 1e-6) * 0.05
    axes.set_ylim(low - margin, high + margin)


def _x_positions(axes: Axes, values: Sequence[Value], key: str, counts: Sequence[str]) -> list[float]:
    """Label the x axis with ``values`` and below them ``counts``, and return the positions of the values.

    Numbers have their true distances. The axis is logarithmic if they span a wide range, unless the labels would lie
    closer together than on a linear axis. Words are at equal distances.
    """
    axes.set_xlabel(key)
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or len(set(numbers)) == 1:
        labels = [f"{value}\n{count}" for value, count in zip(values, counts, strict=True)]
        axes.set_xticks(range(len(values)), labels)
        axes.set_xlim(-0.5, len(values) - 0.5)
        return [float(position) for position in range(len(values))]
    positive = [number for number in numbers if number > 0]
    spans_wide_range = needs_log_scale([min(positive, default=0), max(numbers)])
    if spans_wide_range and _smallest_gap(numbers) <= _smallest_gap([math.log(number) for number in positive]):
        if len(positive) == len(numbers):
            axes.set_xscale("log")
        else:  # 0 or negative numbers: the axis is linear between -linthresh and linthresh
            axes.set_xscale("symlog", linthresh=min(positive))
        axes.set_xlabel(f"{key} (logarithmic axis)")
    axes.set_xticks(numbers, [f"{number:g}\n{count}" for number, count in zip(numbers, counts, strict=True)])
    axes.minorticks_off()
    return numbers


def _turn_crowded_labels(figure: Figure, axes: Axes, positions: Sequence[float]) -> None:
    """Turn the labels of the x axis by 90 degrees if they would overlap, and widen the figure until they fit."""
    labels = [label.get_text() for label in axes.get_xticklabels()]
    longest = max(len(line) for label in labels for line in label.splitlines())
    gap = _smallest_gap(axes.xaxis.get_transform().transform(np.array(positions)).tolist())
    if len(labels) == 1 or gap * _EFFECT_AXIS_WIDTH >= (longest + 1) * _LETTER_WIDTH:
        return
    axes.set_xticks(positions, [label.replace("\n", ", ") for label in labels], rotation=90)
    frame_width = _EFFECT_WIDTH - _EFFECT_AXIS_WIDTH
    figure.set_figwidth(min(max(_EFFECT_WIDTH, frame_width + _LINE_HEIGHT / gap), _MAX_EFFECT_WIDTH))


def _smallest_gap(positions: Sequence[float]) -> float:
    """Return the smallest distance of neighbours as a share of the whole range. If it is small, labels overlap."""
    ordered = sorted(positions)
    gaps = [after - before for before, after in itertools.pairwise(ordered)]
    return min(gaps, default=0.0) / ((ordered[-1] - ordered[0]) or 1.0)


@styled
def pair_figure(
    means: Mapping[tuple[Value, Value], float],
    *,
    counts: Mapping[tuple[Value, Value], int],
    keys: tuple[str, str],
    metric: str,
    values: tuple[list[Value], ...],
    failed: Mapping[tuple[Value, Value], int] | None = None,
) -> Figure:
    """Draw a heat map of the mean of ``metric`` for each pair of values of two ``keys``, the first key in columns.

    ``values`` holds the ordered values of each key, ``counts`` the number of runs of each pair, ``failed`` that of
    failed runs. Pairs without a run stay empty.
    """
    columns, rows = values
    factor, metric_label = metric_scale(metric)
    grid = factor * np.array([[means.get((column, row), np.nan) for column in columns] for row in rows])
    size = max(1.6 + 0.75 * len(columns), 3.2), max(1.4 + 0.5 * len(rows), 2.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap=METRIC_MAP, aspect="auto")
    axes.set_xticks(range(len(columns)), [str(value) for value in columns])
    axes.set_yticks(range(len(rows)), [str(value) for value in rows])
    axes.set(xlabel=keys[0], ylabel=keys[1], title=f"mean {metric_label},\nn: number of runs")
    axes.grid(visible=False)
    for (row, column), mean in np.ndenumerate(grid):
        failures = (failed or {}).get((columns[column], rows[row]), 0)
        if failures and not np.isfinite(mean):
            axes.text(column, row, f"{failures} failed", ha="center", va="center", color=ORANGE, fontsize=7)
        if np.isfinite(mean):
            text = f"{mean:.{2 if factor > 1 else 4}f}\nn={counts[columns[column], rows[row]]}"
            text += f", {failures} failed" if failures else ""
            colour = text_colour_on(tuple(image.to_rgba(np.asarray(mean))))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes, label=metric_label)
    return figure


@styled
def parallel_figure(
    settings: Sequence[tuple[Sequence[Value], float]],
    *,
    keys: Sequence[str],
    metric: str,
    values: Sequence[list[Value]],
    failed: Mapping[tuple[Value, ...], int] | None = None,
) -> Figure:
    """Draw parallel coordinates: one line per setting crosses one vertical axis per key and ends at its metric.

    ``settings`` are pairs of (values in the order of ``keys``, metric). ``values`` holds the ordered values of each
    key, which lie at equal distances on its axis. The colour of a line shows the metric as well. ``failed`` holds the
    number of failed runs of a setting; its line ends with a cross. If no run of the setting finished, the line is
    dotted and ends below the axis of the metric.
    """
    factor, metric_label = metric_scale(metric)
    scale = Normalize(*_colour_range([factor * measured for _, measured in settings]))
    figure = Figure(figsize=(1.9 + 1.25 * (len(keys) + 1), 3.4), layout="constrained")
    axes = figure.add_subplot()
    failed = failed or {}
    finished = {tuple(setting) for setting, _ in settings}
    unfinished = [setting for setting in failed if setting not in finished]
    for lost in unfinished:
        heights = [
            *(_height(value, key_values) for value, key_values in zip(lost, values, strict=True)),
            _FAILED_END,
        ]
        axes.plot(range(len(heights)), heights, ":", color=ORANGE, zorder=1)
        axes.plot([len(keys)], [_FAILED_END], "x", clip_on=False, **_FAILED_MARK)
    # The best setting comes last, on top of the others.
    smaller_is_better = metric_direction(metric) == "min"
    for setting, measured in sorted(settings, key=lambda each: each[1], reverse=smaller_is_better):
        heights = [_height(value, key_values) for value, key_values in zip(setting, values, strict=True)]
        share = float(scale(factor * measured))
        axes.plot(range(len(heights) + 1), [*heights, share], color=_LOW_TO_HIGH(share), alpha=0.9)
        if tuple(setting) in failed:
            axes.plot([len(keys)], [share], "x", clip_on=False, **_FAILED_MARK)
    for column, key_values in enumerate(values):
        axes.axvline(column, color=TEXT_COLOUR, linewidth=0.6, zorder=0)
        for value in key_values:
            height = _height(value, key_values)
            offset = _LABEL_OFFSET if height > 0.5 else -_LABEL_OFFSET
            # A white box keeps the label readable on the axis line.
            box = {"facecolor": BACKGROUND_COLOUR, "edgecolor": "none", "pad": 1}
            axes.text(column, height + offset, str(value), ha="center", va="center", bbox=box)
    axes.set_xticks(range(len(keys) + 1), [*keys, metric])
    axes.set_yticks([])
    failed_note = f";\ndotted: settings without a finished run ({len(unfinished)})" if unfinished else ""
    failed_note += f";\ncrosses: settings with failed runs ({sum(failed.values())} runs)" if failed else ""
    axes.set(xlim=(-0.3, len(keys) + 0.05), ylim=(-0.14, 1.14))
    axes.set_title(f"one line per setting, coloured by its mean metric{failed_note}")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(ScalarMappable(scale, _LOW_TO_HIGH), ax=axes, label=metric_label)
    return figure


def _colour_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the colour scale: the extreme values, or numbers around them if all values are equal."""
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _height(value: Value, key_values: list[Value]) -> float:
    """Return the position of a value on the axis of its key, in [0, 1]."""
    return key_values.index(value) / (len(key_values) - 1) if len(key_values) > 1 else 0.5


@styled
def curve_figure(histories: Sequence[tuple[str, Sequence[tuple[int, float]]]], *, metric: str) -> Figure:
    """Draw ``metric`` against epochs, one line per run.

    ``histories`` are pairs of (name of the setting, [(epoch, value), …]), the best setting first. The best settings are
    coloured and named in the legend, the others are grey.
    """
    factor, metric_label = metric_scale(metric)
    names = list(dict.fromkeys(name for name, _ in histories))
    figure = Figure(figsize=(6.0, 3.2 + 0.16 * len(names[: len(_BEST_STYLES)])), layout="constrained")
    axes = figure.add_subplot()
    lines = {}
    # The best setting comes last, on top of the others.
    for name, history in reversed(histories):
        rank = names.index(name)
        epochs, values = [epoch for epoch, _ in history], [factor * value for _, value in history]
        if rank < len(_BEST_STYLES):
            colour, line, marker = _BEST_STYLES[rank]
            (lines[name],) = axes.plot(epochs, values, color=colour, linestyle=line, marker=marker, zorder=3)
        else:
            axes.plot(epochs, values, color=TEXT_COLOUR, alpha=0.4, linewidth=0.8, zorder=2)
    best = names[: len(_BEST_STYLES)]
    figure.legend([lines[name] for name in best], best, loc="outside lower left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        xlabel="epoch",
        ylabel=metric_label,
        title=f"one line per run; legend: the best {len(best)} of {len(names)} settings",
    )
    return figure
