"""Figures that analyse a sweep show the given numbers, mark what failed, and invent nothing between and around them."""

import numpy as np
import pytest

from digitlab.figures.analysis import (
    CurvePoint,
    Point,
    RateCurve,
    can_be_contoured,
    contour_figure,
    importance_figure,
    learning_curve_figure,
    rate_figure,
)
from digitlab.figures.style import encode
from digitlab.figures.sweeps import Effect, effect_figure, pair_figure, parallel_figure


def test_each_key_has_a_bar_with_its_interval():
    keys = [("optimizer.lr", 0.8, (0.6, 0.9)), ("model.dropout", 0.2, (0.1, 0.4))]
    (axes,) = importance_figure(keys, metric="val/accuracy", method="fANOVA (source)").axes
    bars, intervals = axes.containers
    assert [bar.get_width() for bar in bars] == pytest.approx([80, 20])
    ends = [segment[:, 0].tolist() for segment in intervals.lines[2][0].get_segments()]
    assert ends == [pytest.approx([60, 90]), pytest.approx([10, 40])]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["optimizer.lr", "model.dropout"]
    assert axes.get_title(loc="left") == "fANOVA"
    (axes,) = importance_figure(keys, metric="val/accuracy", method="fANOVA (source)", left_out=2).axes
    assert axes.get_title(loc="left") == "fANOVA; without 2 failed or diverged runs"


# The values of a plane over the logarithm of x, so that linear interpolation is exact; one corner is missing.
CORNERS = [(x, y) for x in (1e-3, 1e-2, 1e-1) for y in (0.0, 0.25, 0.5) if (x, y) != (1e-1, 0.5)]
POINTS = [Point(x, y, 0.5 + 0.1 * np.log10(x) / 3 - 0.2 * y) for x, y in CORNERS]


def contoured(figure):
    """The corners of all areas that are filled, as (x, y)."""
    (areas,) = (each for each in figure.axes[0].collections if hasattr(each, "levels"))
    return np.concatenate([path.vertices for path in areas.get_paths() if len(path.vertices)]), areas


def test_contours_stay_within_the_hull_of_the_points():
    figure = contour_figure(POINTS, keys=("rate", "dropout"), metric="val/accuracy", others=("width",))
    corners, areas = contoured(figure)
    assert figure.axes[0].get_xscale() == "log"
    scaled = (np.log10(corners[:, 0]) + 3) / 2, corners[:, 1] / 0.5
    # The missing corner is cut off along the line between its neighbours.
    assert (scaled[0] + scaled[1]).max() <= 1.5 + 1e-9
    assert min(scaled[0].min(), scaled[1].min()) >= -1e-9
    values = [100 * point.value for point in POINTS]
    assert areas.levels[0] <= min(values) + 1e-9
    assert max(values) - 1e-9 <= areas.levels[-1]
    assert "mean over width" in figure.axes[0].get_title(loc="left")


def test_points_are_shown_and_failed_ones_marked():
    points = [*POINTS[1:], Point(*CORNERS[0], POINTS[0].value, 1), Point(1e-1, 0.5, None, 2)]
    figure = contour_figure(points, keys=("x", "y"), metric="val/loss", others=())
    circles, crosses, orange = figure.axes[0].lines
    assert sorted(zip(*circles.get_data(), strict=True)) == sorted(CORNERS)
    assert list(zip(*crosses.get_data(), strict=True)) == [(0.1, 0.5)]
    assert list(zip(*orange.get_data(), strict=True)) == [CORNERS[0]]
    assert figure.axes[0].get_title(loc="left").splitlines()[1:] == [
        "crosses: all runs failed (1)", "orange edge: some runs failed (1)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "places",
    [
        [(0, 0), (1, 1), (2, 2)],  # a line has no area
        [(x, y) for x in (0, 1) for y in (0, 1, 2)],  # a heat map says as much
        [],
    ],
)
def test_too_few_points_have_no_contours(places):
    assert not can_be_contoured([Point(x, y, 0.5) for x, y in places])
    assert can_be_contoured(POINTS)


def test_equal_values_have_no_contours_but_a_figure():
    assert encode(contour_figure([Point(x, y, 0.5) for x, y in CORNERS], keys=("x", "y"), metric="m", others=()))


def test_a_learning_curve_has_a_logarithmic_axis_and_bars_of_one_deviation():
    points = [CurvePoint(100, 0.8, 0.02, 5), CurvePoint(1000, 0.9, 0.01, 5), CurvePoint(10000, 0.95, None, 1)]
    (axes,) = learning_curve_figure([("", points)], metric="val/accuracy").axes
    assert axes.get_xscale() == "log"
    (bars,) = axes.containers
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    assert ends == pytest.approx(np.array([[78, 82], [89, 91], [95, 95]]))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "1,000", "10,000"]
    assert "1 to 5 runs" in axes.get_title(loc="left")


def test_a_range_test_marks_diverged_rates_and_the_suggestion():
    curve = RateCurve(
        name="", rates=[1e-3, 1e-2, 1e-1, 1.0, 10.0], losses=[2.0, 1.0, 0.5, 90.0, None], useful=(1e-2, 1e-1),
        suggested=0.03,
    )  # fmt: skip
    figure = rate_figure([curve])
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["loss"].get_xdata() == pytest.approx([1e-3, 1e-2, 1e-1])
    top = axes.get_ylim()[1]
    # A loss of 90 would flatten the curve, so it is drawn at the upper edge.
    assert top < 3
    assert (lines["above the axis"].get_xdata(), lines["above the axis"].get_ydata()) == ([1.0], [top])
    assert lines["✗ diverged"].get_xdata() == [10.0]
    assert set(lines["suggestion: 0.03"].get_xdata()) == {0.03}
    assert axes.get_xscale() == "log"
    assert encode(figure)


def test_failed_runs_are_marked_in_the_figures_of_keys():
    effects = [Effect(0.1, 0.9, None, [0.9, 0.9], failed=1), Effect(0.2, None, None, [], failed=2)]
    (axes,) = effect_figure(effects, key="k", metric="val/loss").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1\nn=2\n1 failed", "0.2\nn=0\n2 failed"]
    assert sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x") == [0.1, 0.2]
    figure = pair_figure(
        {(0, "a"): 0.5}, counts={(0, "a"): 1, (1, "a"): 0}, keys=("x", "y"), metric="val/loss", values=([0, 1], ["a"]),
        failed={(0, "a"): 1, (1, "a"): 3},
    )  # fmt: skip
    assert {text.get_text() for text in figure.axes[0].texts} == {"0.5000\nn=1, 1 failed", "3 failed"}
    figure = parallel_figure(
        [((0, "a"), 0.5), ((1, "a"), 0.7)], keys=("x", "y"), metric="m", values=([0, 1], ["a", "b"]),
        failed={(1, "b"): 2, (1, "a"): 1},
    )  # fmt: skip
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[:2].tolist() for line in dotted] == [[1, 1]]
    # The cross of the setting of which no run finished is below the axis, the other one at the end of its line.
    crosses = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert crosses[0] < 0
    assert crosses[1:] == [1]
    title = figure.axes[0].get_title(loc="left")
    assert "settings without a finished run (1)" in title
    assert title.endswith("crosses: settings with failed runs (3 runs)")
