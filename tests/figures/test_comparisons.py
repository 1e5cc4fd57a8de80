"""Learning curves of several settings: one line per setting, the mean over its runs."""

import numpy as np
import pytest

from digitlab.figures.comparisons import Setting, settings_figure

BASELINE = Setting("baseline", {"train/loss": [[2.0, 1.0], [1.0, 0.5]], "val/accuracy": [[0.5, 0.6], [0.7, 0.8]]})
VARIANT = Setting("variant", {"train/loss": [[3.0, 2.0, 1.0]], "val/accuracy": [[0.2, 0.4, 0.6]]})


@pytest.fixture(scope="module")
def figure():
    return settings_figure([BASELINE, VARIANT], title="title")


def test_each_available_metric_has_a_panel(figure):
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss", "validation accuracy in %"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}


def test_a_line_is_the_mean_over_its_runs(figure):
    baseline, variant = figure.axes[1].lines
    np.testing.assert_allclose(baseline.get_xydata(), [[1, 60], [2, 70]])
    np.testing.assert_allclose(variant.get_xydata(), [[1, 20], [2, 40], [3, 60]])


def test_a_band_of_one_standard_deviation_needs_several_runs(figure):
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(1.5 + np.std([2.0, 1.0], ddof=1))


def test_lines_differ_in_more_than_colour(figure):
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "variant"]
    assert len({line.get_marker() for line in figure.axes[0].lines}) == 2


def test_runs_of_different_length_are_averaged_over_the_common_epochs():
    ragged = Setting("ragged", {"train/loss": [[2.0, 1.0, 9.0], [1.0, 0.0]]})
    (line,) = settings_figure([ragged], title="title").axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [1.5, 0.5])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_any_number_of_metrics_has_as_many_panels(count):
    metrics = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")[:count]
    drawn = settings_figure([Setting("a", {metric: [[0.5, 0.6]] for metric in metrics})], title="title")
    assert len(drawn.axes) == count
