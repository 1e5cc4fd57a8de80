"""Draws line charts as inline SVG: sharp at any size, in the colours of the style sheet, without scripts.

``page`` puts them into a report. All coordinates are in units of the view box, which the browser scales to the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 38  # the margins, with space for tick labels and axis labels
_MOST_STEPS = 7  # between the ticks of an axis
_MOST_MARKERS = 60  # a line with more points has no markers, because they would overlap
# Above this ratio of the largest to the smallest value, the vertical axis is logarithmic. It then always contains a
# power of ten, which is a tick.
_LOG_RANGE = 50
_MARKER_SPACE = 6  # between the first or last point and the end of the horizontal axis


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    ``points`` are (x, y). ``css_class`` sets its style. ``run_index`` connects it with a row of the table of runs: the
    page highlights both together. It is None on the page of a single run.
    """

    name: str
    points: Sequence[tuple[float, float]]
    css_class: str
    run_index: int | None = None


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to coordinates, linearly or by their logarithms."""

    low: float
    high: float
    start: float  # coordinate of ``low``
    end: float  # coordinate of ``high``
    log: bool = False

    def position(self, value: float) -> float:
        """Return the coordinate of a value."""
        low, high, scaled = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + (scaled - low) / (high - low) * (self.end - self.start)

    def ticks(self, *, whole: bool = False) -> list[float]:
        """Return round values on the axis, whole numbers with ``whole``; on a logarithmic axis its powers of ten."""
        # Without the 1e-9, rounding errors could drop a tick at an end of the axis.
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        # Begin with the largest power of ten that gives at least _MOST_STEPS steps. Then make the steps larger by the
        # smallest round factor with which at most so many remain.
        step = 10 ** math.floor(math.log10((self.high - self.low) / _MOST_STEPS))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= _MOST_STEPS)
        step = max(step, 1) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str, best_x: float | None = None) -> Markup:
    """Draw the lines on common axes, and a vertical mark at ``best_x``, the best epoch.

    Points that are not finite are omitted. The vertical axis is logarithmic if all values are positive and span more
    than a factor of 50; its label says so.
    """
    finite = [
        Line(
            each.name,
            [point for point in each.points if all(map(math.isfinite, point))],
            each.css_class,
            each.run_index,
        )
        for each in lines
    ]
    drawn = [line for line in finite if line.points]
    if not drawn:
        return Markup("<p>no finite value</p>")
    x_axis, y_axis = _make_axes([point for line in drawn for point in line.points])
    parts = [_draw_axes(x_axis, y_axis, x_label, f"{y_label}, log scale" if y_axis.log else y_label)]
    if best_x is not None:
        x = x_axis.position(best_x)
        parts.append(
            Markup('<path class="best" d="M{0:.1f} {1}V{2}"><title>best epoch: {3:g}</title></path>').format(
                x, _TOP, _HEIGHT - _BOTTOM, best_x
            )
        )
    parts += [_draw_line(line, x_axis, y_axis, x_label) for line in drawn]
    # Screen readers read this label, so it names only the first lines.
    label = f"{y_label} against {x_label}: " + "; ".join(
        f"{line.name} ends at {line.points[-1][1]:.4g}" for line in drawn[:4]
    )
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, label, Markup("").join(parts)
    )


def _make_axes(points: Sequence[tuple[float, float]]) -> tuple[_Axis, _Axis]:
    """Return a horizontal and a vertical axis on which all points fit."""
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    log = low > 0 and high / low > _LOG_RANGE
    if not log:
        # Space above and below the lines. If all values are equal, it is a part of that value, and 1 if they are all 0.
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - margin, high + margin
    if left == right:
        left, right = left - 1, right + 1
    x_axis = _Axis(left, right, _LEFT + _MARKER_SPACE, _WIDTH - _RIGHT - _MARKER_SPACE)
    return x_axis, _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, log)


def _draw_axes(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> Markup:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in y_axis.ticks():
        y = y_axis.position(value)
        parts.append(
            Markup(
                '<path class="grid" d="M{0} {1:.1f}H{2}"/><text class="y" x="{3}" y="{1:.1f}">{4:.6g}</text>'
            ).format(_LEFT, y, right, _LEFT - 6, value)
        )
    for value in x_axis.ticks(whole=True):
        parts.append(
            Markup('<text class="x" x="{:.1f}" y="{}">{:g}</text>').format(x_axis.position(value), bottom + 15, value)
        )
    parts.append(Markup('<path class="axis" d="M{0} {1}V{2}H{3}"/>').format(_LEFT, _TOP, bottom, right))
    parts.append(Markup('<text class="x" x="{}" y="{}">{}</text>').format((_LEFT + right) / 2, _HEIGHT - 5, x_label))
    middle = (_TOP + bottom) / 2
    parts.append(
        Markup('<text class="x" transform="translate(11 {:.1f}) rotate(-90)">{}</text>').format(middle, y_label)
    )
    return Markup("").join(parts)


def _draw_line(line: Line, x_axis: _Axis, y_axis: _Axis, x_label: str) -> Markup:
    positions = [(x_axis.position(x), y_axis.position(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
    data_run = Markup("") if line.run_index is None else Markup(' data-run="{}"').format(line.run_index)
    parts = [
        Markup('<polyline class="{}"{} points="{}"><title>{}</title></polyline>').format(
            line.css_class, data_run, path, line.name
        )
    ]
    # Charts of many runs have no markers. The exception is a run with a single epoch, because its line is invisible.
    if (line.run_index is None and len(positions) <= _MOST_MARKERS) or len(positions) == 1:
        parts += [
            Markup('<circle class="{}"{} cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}</title></circle>').format(
                line.css_class, data_run, x, y, escape(f"{line.name}, {x_label} {x_value:g}: {y_value:.5g}")
            )
            for (x, y), (x_value, y_value) in zip(positions, line.points, strict=True)
        ]
    return Markup("").join(parts)
