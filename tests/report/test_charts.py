"""Line charts: positions, labels, and omitted points."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlab.report.charts import Line, line_chart

POINTS = [(1, 0.5), (2, 0.75), (3, 1.0)]


def chart(*lines, best_x=None):
    return ElementTree.fromstring(str(line_chart(lines, x_label="epoch", y_label="accuracy", best_x=best_x)))


def positions(svg):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()] for line in svg.iter("polyline")
    ]


def ticks(svg, axis):
    found = [text for text in svg.iter("text") if text.get("class") == axis]
    return {float(text.text): float(text.get(axis)) for text in found if re.fullmatch(r"-?[\d.e+-]+", text.text)}


def test_points_agree_with_the_ticks():
    svg = chart(Line("run", POINTS, "train"))
    (line,) = positions(svg)
    for axis, number in (("x", 0), ("y", 1)):
        marks = ticks(svg, axis)
        (low, at_low), (high, at_high) = min(marks.items()), max(marks.items())
        for point, place in zip(POINTS, line, strict=True):
            expected = at_low + (point[number] - low) / (high - low) * (at_high - at_low)
            assert place[number] == pytest.approx(expected, abs=0.2)


def test_epochs_are_whole_numbers_on_the_axis():
    assert set(ticks(chart(Line("run", POINTS, "train")), "x")) == {1, 2, 3}


def test_a_wide_range_of_positive_values_is_logarithmic():
    svg = chart(Line("run", [(1, 0.01), (2, 1.0), (3, 100.0)], "train"))
    (line,) = positions(svg)
    assert set(ticks(svg, "y")) == {0.01, 0.1, 1, 10, 100}
    assert "accuracy, log scale" in {text.text for text in svg.iter("text")}
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=0.2)


def test_axes_are_labelled_and_the_chart_has_a_text_description():
    svg = chart(Line("training", POINTS, "train"), best_x=2)
    assert {"epoch", "accuracy"} <= {text.text for text in svg.iter("text")}
    assert svg.get("aria-label") == "accuracy against epoch: training ends at 1"
    (best,) = [path for path in svg.iter("path") if path.get("class") == "best"]
    assert best.find("title").text == "best epoch: 2"
    assert float(best.get("d").split()[0][1:]) == pytest.approx(positions(svg)[0][1][0], abs=0.1)


def test_values_that_are_not_finite_are_omitted():
    svg = chart(Line("run", [(1, 0.5), (2, math.nan), (3, math.inf), (4, 0.6)], "train"), Line("none", [], "val"))
    assert [len(line) for line in positions(svg)] == [2]
    assert "no finite value" in line_chart([Line("run", [(1, math.nan)], "val")], x_label="epoch", y_label="loss")


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e30, 1e30)), min_size=1, max_size=20))
def test_all_points_lie_inside_the_chart(points):
    svg = chart(Line("run", points, "run", run_index=0))
    for x, y in positions(svg)[0]:
        assert 0 <= x <= 400
        assert -1 <= y <= 251
    assert len(ticks(svg, "x")) <= 9


def test_a_single_epoch_is_a_dot():
    assert len(list(chart(Line("run", [(1, 0.5)], "run", run_index=3)).iter("circle"))) == 1


def test_names_are_escaped():
    assert "<b>" not in line_chart([Line("<b>", POINTS, "train")], x_label="epoch", y_label="loss")
