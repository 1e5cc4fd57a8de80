"""Confusion matrices and confused pairs."""

import numpy as np
import pytest
import torch

from digitlab.figures.confused import most_confused
from digitlab.figures.confusion import confused_pairs_figure, confusion_figure, confusion_pixels
from digitlab.figures.style import figure_width, pixels

NAMES = ["cat", "dog", "ox"]
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2])
PREDICTED = torch.tensor([1, 1, 0, 1, 2, 1, 2])


def test_the_heat_maps_show_counts_and_row_percentages():
    confusion = torch.tensor([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    counts, shares = confusion_figure(confusion, class_names=NAMES, title="title").axes[:2]
    off_diagonal = ~np.eye(3, dtype=bool)
    assert np.array(counts.images[0].get_array())[off_diagonal].tolist() == [2, 0, 0, 5, 0, 0]
    assert np.array(shares.images[0].get_array())[off_diagonal] == pytest.approx(np.array([20, 0, 0, 50, 0, 0]))
    for axes in (counts, shares):
        assert np.array_equal(np.ma.getmaskarray(axes.images[0].get_array()), np.eye(3, dtype=bool))
    assert [text.get_text() for text in counts.texts] == ["8", "2", "5", "5"]
    assert [text.get_text() for text in shares.texts] == ["80.0", "20.0", "50.0", "50.0"]


def test_axes_are_labelled_with_their_meaning_and_the_classes():
    for axes in confusion_figure(torch.eye(3, dtype=torch.int64), class_names=NAMES, title="title").axes[:2]:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
        assert [tick.get_text() for tick in axes.get_xticklabels()] == NAMES
        assert [tick.get_text() for tick in axes.get_yticklabels()] == NAMES


def test_colour_bars_are_labelled():
    axes = confusion_figure(torch.eye(3, dtype=torch.int64), class_names=NAMES, title="title").axes
    assert [scale.get_ylabel() for scale in axes[2:]] == ["errors: images", "errors: % of the true class"]


def test_the_colour_scale_ends_just_above_the_largest_error():
    confusion = torch.tensor([[987, 13, 0], [0, 500, 1], [2, 0, 1000]])
    counts, shares = confusion_figure(confusion, class_names=NAMES, title="title").axes[:2]
    assert (counts.images[0].norm.vmax, shares.images[0].norm.vmax) == (15, 1.5)
    # A network without errors has a scale as well.
    counts, _ = confusion_figure(9 * torch.eye(3, dtype=torch.int64), class_names=NAMES, title="title").axes[:2]
    assert counts.images[0].norm.vmax == 1


def test_a_column_of_a_paper_stacks_the_heat_maps():
    with figure_width("column"):
        above, below = confusion_figure(torch.eye(3, dtype=torch.int64), class_names=NAMES, title="title").axes[:2]
    assert above.get_position().y0 > below.get_position().y1


def test_the_pixels_are_those_of_the_figure():
    right, wrong = (9 * torch.eye(3, dtype=torch.int64), 3 * torch.ones(3, 3, dtype=torch.int64))
    first, second, again = (
        confusion_pixels(confusion, class_names=NAMES, title="title") for confusion in (right, wrong, right)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    figure = pixels(confusion_figure(right, class_names=NAMES, title="title"))
    # Pixels may differ at the edges of the maps, where the tick marks begin.
    assert (first != figure).any(2).mean() < 0.01


def test_most_confused_is_sorted_and_omits_pairs_without_confusion():
    counts = [[1, 2, 0], [0, 2, 1], [0, 0, 1]]
    assert most_confused(counts, pairs=9) == [(0, 1, 2), (1, 2, 1)]
    assert most_confused(counts, pairs=1) == [(0, 1, 2)]


def test_each_confused_pair_is_drawn_with_its_images():
    images = (30 * torch.arange(1, 8)).byte().view(7, 1, 1, 1).expand(7, 1, 4, 4)
    figure = confused_pairs_figure(images, LABELS, PREDICTED, class_names=NAMES, pairs=2, examples=3, title="title")
    assert [image.get_array()[0, 0, 0] for image in figure.axes[0].images] == [30, 60, 150]
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert captions == ["✗ dog\ntrue: cat\n2 times", "✗ dog\ntrue: cat", "✗ ox\ntrue: dog\n1 time"]


def test_many_classes_have_small_cells_without_numbers():
    names = [f"class number {number}" for number in range(100)]
    figure = confusion_figure(torch.ones(100, 100, dtype=torch.int64), class_names=names, title="title")
    assert figure.get_size_inches().max() < 28
    for axes in figure.axes[:2]:
        assert list(axes.texts) == []
        labels = axes.get_yticklabels()
        assert len(labels) == 100
        # The names of neighbours do not overlap.
        cell_points = 72 * axes.get_window_extent().height / figure.dpi / 100
        assert max(label.get_fontsize() for label in labels) < cell_points
