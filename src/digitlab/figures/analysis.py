"""Figures that analyse a sweep: importance of keys, contours over two keys, learning curve, learning-rate range test.

The functions take plain numbers and return a Matplotlib figure; ``sweeps.summary_figures`` collects the numbers. The
importance of a key says how much its values matter for the metric, as a share of all swept keys. A learning curve shows
the metric against the number of training images. A range test is a sweep that trains a few mini-batches at each
learning rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from digitlab.figures.formatting import metric_scale, needs_log_scale
from digitlab.figures.style import (
    BLUE,
    GREEN,
    LINE_STYLES,
    METRIC_MAP,
    ORANGE,
    TEXT_COLOUR,
    WRONG_MARK,
    literal,
    styled,
)  # fmt: skip

# A contour figure has about this many colours.
_LEVELS = 12
# One marker for each line of a learning-curve figure, so that lines differ in more than colour.
_MARKERS = "os^Dvp"
# The axis of a range test ends this far above its first loss, as a share of the distance from the lowest to the first
# loss. Higher losses only say that the rate is too large.
_HEADROOM = 0.25


@styled
def importance_figure(
    keys: Sequence[tuple[str, float, tuple[float, float]]], *, metric: str, method: str, left_out: int = 0
) -> Figure:
    """Draw a bar for each key with its 95 % interval; ``keys`` are (key, share in [0, 1], interval), largest first.

    The title is ``method``, the name of the method that computed the shares, up to the first bracket, and the number of
    runs that are ``left_out``.
    """
    figure = Figure(figsize=(5.2, 0.9 + 0.34 * len(keys)), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(keys))
    shares = [100 * share for _, share, _ in keys]
    error_bars = np.array([[100 * (share - low), 100 * (high - share)] for _, share, (low, high) in keys]).T
    axes.barh(rows, shares, color=BLUE, alpha=0.55, height=0.6)
    axes.errorbar(shares, rows, xerr=error_bars, fmt="none", ecolor=TEXT_COLOUR, capsize=3)
    axes.set_yticks(rows, [literal(key) for key, _, _ in keys])
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    left_out_note = f"; without {left_out} failed or diverged run{'s' * (left_out > 1)}" if left_out else ""
    axes.set_xlabel(f"importance for {metric} in %; line: 95 % interval")
    axes.set_title(f"{method.partition(' (')[0]}{left_out_note}")
    return figure


@dataclass(frozen=True, slots=True)
class Point:
    """The mean of a metric where two keys have the values ``x`` and ``y``; None if all runs there failed.

    ``failed`` is the number of failed runs there.
    """

    x: float
    y: float
    value: float | None
    failed: int = 0


def can_be_contoured(points: Sequence[Point]) -> bool:
    """Whether the points with a value span an area and have at least three values of each key."""
    finished = [point for point in points if point.value is not None]
    if min(len({point.x for point in finished}), len({point.y for point in finished})) < 3:
        return False
    coordinates = np.column_stack([_scaled(finished, "x"), _scaled(finished, "y")])
    # The rank is smaller if all points lie on one line.
    return bool(np.linalg.matrix_rank(coordinates - coordinates.mean(0), tol=1e-6) == 2)


def _scaled(points: Sequence[Point], axis: str) -> npt.NDArray[np.float64]:
    """Return the coordinates of the points on one axis, scaled to [0, 1]; logarithmic if they span a wide range."""
    values = [getattr(point, axis) for point in points]
    numbers = np.log(values) if needs_log_scale(values) else np.array(values, dtype=np.float64)
    scaled: npt.NDArray[np.float64] = (numbers - numbers.min()) / (np.ptp(numbers) or 1.0)
    return scaled


@styled
def contour_figure(points: Sequence[Point], *, keys: tuple[str, str], metric: str, others: Sequence[str]) -> Figure:
    """Draw the metric over two keys: linear interpolation between the points, and nothing outside their convex hull.

    ``points`` satisfy ``can_be_contoured``. Points without a value have a cross, and points where some runs failed have
    an orange edge. ``others`` are the keys over which the values are means.
    """
    finished = [point for point in points if point.value is not None]
    failed = [point for point in points if point.value is None]
    factor, metric_label = metric_scale(metric)
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    # Choose the triangles in scaled coordinates. Without scaling, a learning rate near 0.1 and a width near 100 would
    # give triangles that are extremely long and thin.
    triangles = Triangulation(_scaled(finished, "x"), _scaled(finished, "y")).triangles
    x, y = [point.x for point in finished], [point.y for point in finished]
    values = [factor * point.value for point in finished if point.value is not None]
    is_log = needs_log_scale(x), needs_log_scale(y)
    if max(values) > min(values):
        # Matplotlib interpolates between the plain numbers, whatever the scale of the axis. So pass it the logarithms,
        # and turn the corners of the coloured areas back into numbers.
        coordinates = [np.log10(numbers) if log else numbers for numbers, log in zip((x, y), is_log, strict=True)]
        mesh = Triangulation(coordinates[0], coordinates[1], triangles)
        surface = axes.tricontourf(mesh, values, levels=_LEVELS, cmap=METRIC_MAP)
        for path in surface.get_paths():
            corners = np.asarray(path.vertices)
            path.vertices = np.where(is_log, np.power(10.0, corners), corners)
        figure.colorbar(surface, ax=axes, label=metric_label)
    all_points = [*finished, *failed]
    axes.set_xlim(min(point.x for point in all_points), max(point.x for point in all_points))
    axes.set_ylim(min(point.y for point in all_points), max(point.y for point in all_points))
    # Set the scales only now. Before the limits are set, the axes span the logarithms, which may be negative.
    axes.set_xscale("log" if is_log[0] else "linear")
    axes.set_yscale("log" if is_log[1] else "linear")
    axes.plot(x, y, "o", color="white", markeredgecolor="black", markersize=4, zorder=3, clip_on=False)
    if failed:
        failed_coordinates = [point.x for point in failed], [point.y for point in failed]
        axes.plot(*failed_coordinates, "x", color=ORANGE, markersize=7, markeredgewidth=2, zorder=4, clip_on=False)
    partly = [point for point in finished if point.failed]
    if partly:
        partly_coordinates = [point.x for point in partly], [point.y for point in partly]
        style: dict[str, Any] = {"color": "white", "markeredgecolor": ORANGE, "markeredgewidth": 2}
        axes.plot(*partly_coordinates, "o", markersize=6, zorder=4, clip_on=False, **style)
    mean_note = f", mean over {', '.join(others)}" if others else ""
    notes = [f"crosses: all runs failed ({len(failed)})"] * bool(failed)
    notes += [f"orange edge: some runs failed ({len(partly)})"] * bool(partly)
    axes.set(xlabel=keys[0], ylabel=keys[1])
    axes.set_title("\n".join([f"circles: the settings; linear in between{mean_note}", *notes]))
    axes.grid(visible=False)
    return figure


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Mean and standard deviation of a metric with ``size`` training images; ``sd`` is None for a single run."""

    size: float
    mean: float
    sd: float | None
    runs: int


@styled
def learning_curve_figure(curves: Sequence[tuple[str, Sequence[CurvePoint]]], *, metric: str) -> Figure:
    """Draw ``metric`` against the number of training images, one line per (name, points); bars are ± one sd.

    There are at most six curves, one for each marker.
    """
    factor, metric_label = metric_scale(metric)
    figure = Figure(figsize=(5.0, 3.3 + 0.16 * (len(curves) > 1) * len(curves)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for (colour, style), marker, (name, points) in zip(LINE_STYLES, _MARKERS, curves, strict=False):
        axes.errorbar(
            [point.size for point in points], [factor * point.mean for point in points],
            yerr=[factor * (point.sd or 0.0) for point in points],
            marker=marker, linestyle=style, color=colour, capsize=3, label=literal(name),
        )  # fmt: skip
    sizes = sorted({point.size for _, points in curves for point in points})
    axes.set_xticks(sizes, [f"{size:,g}" for size in sizes])
    axes.minorticks_off()
    runs = sorted({point.runs for _, points in curves for point in points})
    count = f"{runs[0]} runs" if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs"
    axes.set(xlabel="training images (logarithmic axis)", ylabel=metric_label)
    axes.set_title(f"mean ± standard deviation of {count}")
    if len(curves) > 1:
        figure.legend(loc="outside lower left")
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCurve:
    """The loss after a few mini-batches at each learning rate, in ascending order; None where the run diverged.

    ``name`` is empty if the sweep has only one test. ``useful`` are the smallest and the largest rate whose loss is
    nearly the lowest one, and ``suggested`` lies between them; both are None if there is no suggestion.
    """

    name: str
    rates: Sequence[float]
    losses: Sequence[float | None]
    useful: tuple[float, float] | None
    suggested: float | None


@styled
def rate_figure(curves: Sequence[RateCurve]) -> Figure:
    """Draw a panel for each learning-rate range test: the losses, diverged rates, the useful range, the suggestion."""
    figure = Figure(figsize=(5.2, 3.1 * len(curves)), layout="constrained")
    for number, curve in enumerate(curves, 1):
        _draw_rates(figure.add_subplot(len(curves), 1, number), curve)
    return figure


def _draw_rates(axes: Axes, curve: RateCurve) -> None:
    finite = [(rate, loss) for rate, loss in zip(curve.rates, curve.losses, strict=True) if loss is not None]
    axes.set_xscale("log")
    first_loss = finite[0][1] if finite else 1.0
    lowest_loss = min((loss for _, loss in finite), default=0.0)
    top = first_loss + _HEADROOM * ((first_loss - lowest_loss) or 1.0)
    axes.set_ylim(lowest_loss - 0.05 * (top - lowest_loss), top)
    # Markers at the upper edge stand for losses above the axis and for diverged runs.
    below_top = [(rate, loss) for rate, loss in finite if loss <= top]
    axes.plot([rate for rate, _ in below_top], [loss for _, loss in below_top], "o-", color=BLUE, label="loss")
    rates_above = [rate for rate, loss in finite if loss > top]
    marker_style: dict[str, Any] = {"linestyle": "none", "clip_on": False, "zorder": 4, "markersize": 6}
    if rates_above:
        heights = [top] * len(rates_above)
        axes.plot(rates_above, heights, marker="^", color=ORANGE, label="above the axis", **marker_style)
    diverged = [rate for rate, loss in zip(curve.rates, curve.losses, strict=True) if loss is None]
    if diverged:
        heights = [top] * len(diverged)
        label = f"{WRONG_MARK} diverged"
        axes.plot(diverged, heights, marker="x", color=ORANGE, markeredgewidth=2, label=label, **marker_style)
    if curve.useful is not None:
        low, high = curve.useful
        axes.axvspan(low, high, color=GREEN, alpha=0.15, label=f"nearly the lowest:\n{low:.2g} to {high:.2g}")
    if curve.suggested is not None:
        axes.axvline(curve.suggested, color=GREEN, linestyle="--", label=f"suggestion: {curve.suggested:.2g}")
    axes.set_xlim(curve.rates[0] / 1.3, curve.rates[-1] * 1.3)
    axes.set(xlabel="learning rate (logarithmic axis)", ylabel="loss after the last mini-batch")
    axes.set_title(literal(curve.name) if curve.name else "learning-rate range test", pad=12)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
