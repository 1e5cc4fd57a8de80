"""Figures of confidences; torchmetrics is the reference for the values."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision, multiclass_calibration_error

from digitlab.figures.scores import (
    average_precision,
    class_accuracy_figure,
    precision_recall,
    precision_recall_figure,
    reliability_figure,
    wilson_interval,
)

NAMES = ["cat", "dog", "ox", "yak"]


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (500,), generator=generator)
    logits = torch.randn(500, 4, generator=generator) + 2 * torch.eye(4)[labels]
    return logits.softmax(1), labels


def test_average_precision_equals_torchmetrics_also_with_equal_scores(answers):
    scores, labels = answers
    for values in (scores[:, 1], (10 * scores[:, 1]).round() / 10):
        ours = average_precision(*precision_recall(values, labels == 1))
        assert ours == pytest.approx(float(binary_average_precision(values, (labels == 1).long())), abs=1e-5)


def test_recall_rises_to_one_and_precision_ends_at_the_class_share(answers):
    scores, labels = answers
    precision, recall = precision_recall(scores[:, 2], labels == 2)
    assert (recall.diff() >= 0).all()
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(float((labels == 2).double().mean()))


def test_each_class_that_occurs_has_a_curve(answers):
    scores, labels = answers
    kept = labels != 3
    (axes,) = precision_recall_figure(scores[kept], labels[kept], class_names=NAMES, title="title").axes
    assert [text.get_text().partition(" ")[0] for text in axes.get_legend().get_texts()] == NAMES[:3]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 3
    assert axes.get_xlabel().startswith("recall in %")
    assert axes.get_ylabel().startswith("precision in %")


def test_the_reliability_diagram_shows_the_calibration_error_of_torchmetrics(answers):
    scores, labels = answers
    above, below = reliability_figure(scores, labels, title="title").axes
    error = float(multiclass_calibration_error(scores, labels, num_classes=4, n_bins=15))
    assert f"calibration error {100 * error:.1f} %" in above.get_title("left")
    assert sum(bar.get_height() for bar in below.patches) == 500
    assert (above.get_ylabel(), below.get_xlabel(), below.get_ylabel()) == (
        "accuracy in %",
        "confidence in %",
        "images\n(logarithmic)",
    )


def test_a_perfect_confident_network_reaches_100_per_cent():
    above, _ = reliability_figure(torch.eye(4), torch.arange(4), title="title").axes
    assert [bar.get_height() for bar in above.patches][-1] == 100


def test_precision_recall_axes_zoom_to_the_bends_and_say_so():
    scores, labels = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)), torch.arange(2000) % 2
    scores[torch.arange(2000), labels] += 0.9
    (axes,) = precision_recall_figure(scores, labels, class_names=NAMES[:2], title="title").axes
    start = axes.get_xlim()[0]
    assert 50 < start < 100
    assert axes.get_ylim()[0] == start
    assert axes.get_xlabel() == f"recall in % (axis starts at {start:g} %)"
    for line in axes.lines:
        # The point where precision and recall are equal is inside.
        assert np.minimum(*line.get_data()).max() > start


def test_error_bars_are_wilson_intervals():
    low, high = wilson_interval(torch.tensor([0, 5, 10]), torch.tensor([10, 10, 10]))
    # Reference values of statsmodels' proportion_confint(method="wilson").
    assert low.tolist() == pytest.approx([0.0, 0.236593, 0.722467], abs=1e-5)
    assert high.tolist() == pytest.approx([0.277533, 0.763407, 1.0], abs=1e-5)


def test_each_bin_with_images_has_an_error_bar(answers):
    above, below = reliability_figure(*answers, title="title").axes
    filled = sum(bar.get_height() > 0 for bar in below.patches)
    (bars,) = [each for each in above.containers if hasattr(each, "has_yerr")]
    assert len(bars.lines[2][0].get_segments()) == filled


def test_bars_zoom_in_on_high_accuracies_and_say_so():
    confusion = torch.tensor([[97, 3], [1, 99]])
    (axes,) = class_accuracy_figure(confusion, class_names=NAMES[:2], title="title").axes
    assert axes.get_xlim()[0] == 90
    assert axes.get_xlabel() == "accuracy in % (axis starts at 90 %)"
    assert [text.get_text() for text in axes.texts] == ["97.0", "99.0"]


def test_each_class_has_a_bar_with_its_accuracy():
    confusion = torch.tensor([[3, 1], [0, 2]])
    (axes,) = class_accuracy_figure(confusion, class_names=NAMES[:2], title="title").axes
    assert [bar.get_width() for bar in axes.patches] == [75, 100]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == NAMES[:2]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(100 * 5 / 6)


def test_of_many_classes_the_worst_have_names():
    labels = torch.arange(3000) % 30
    scores = torch.rand(3000, 30, generator=torch.Generator().manual_seed(0))
    scores[:, 5:] += 10 * torch.eye(30)[labels][:, 5:]  # all but the first five classes are perfect
    names = [f"class {number}" for number in range(30)]
    axes = precision_recall_figure(scores, labels, class_names=names, title="title").axes[0]
    legend = axes.get_legend()
    shown = [text.get_text() for text in legend.get_texts()]
    assert legend.get_title().get_text() == "class (average precision)\nlowest 12 of 30"
    assert len(shown) == 12
    assert {f"class {number}" for number in range(5)} <= {text.partition(" (")[0] for text in shown}
    assert len(axes.lines) == 30
