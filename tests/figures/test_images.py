"""Figures of images and predictions: which images they choose and how they mark wrong predictions."""

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from digitlab.figures.images import (
    correct_then_wrong,
    labelled_figure,
    mistakes_figure,
    most_confident_mistakes,
    predictions_figure,
)
from digitlab.figures.style import CORRECT_COLOUR, WRONG_COLOUR, figure_width, pixels
from digitlab.figures.tiles import Caption, tiles_figure

NAMES = ["cat", "dog", "ox"]
LABELS = torch.tensor([0, 1, 2, 1])
SCORES = torch.tensor([[0.7, 0.2, 0.1], [0.9, 0.1, 0.0], [0.1, 0.3, 0.6], [0.1, 0.4, 0.5]])
IMAGES = (60 * torch.arange(1, 5)).byte().view(4, 1, 1, 1).expand(4, 1, 8, 8)


def captions(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def frames(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def test_images_keep_their_order_and_have_their_labels():
    figure = labelled_figure(IMAGES, LABELS, class_names=NAMES, title="title")
    assert captions(figure) == ["cat", "dog", "ox", "dog"]
    assert [image.get_array()[0, 0, 0] for image in figure.axes[0].images] == [60, 120, 180, 240]


def test_correct_and_wrong_predictions_differ_in_mark_and_colour():
    figure = predictions_figure(IMAGES, LABELS, SCORES, class_names=NAMES, title="title")
    assert captions(figure) == ["✓ cat", "✗ cat\ntrue: dog", "✓ ox", "✗ ox\ntrue: dog"]
    expected = [CORRECT_COLOUR, WRONG_COLOUR, CORRECT_COLOUR, WRONG_COLOUR]
    assert [text.get_color() for text in figure.axes[0].texts] == expected
    assert len(frames(figure)) == 4


def test_a_mistake_shows_its_confidence():
    figure = mistakes_figure(IMAGES[1:2], LABELS[1:2], SCORES[1:2], class_names=NAMES, title="title")
    assert captions(figure) == ["✗ cat\ntrue: dog\n90.0 %"]


def test_mistakes_are_sorted_by_confidence():
    assert most_confident_mistakes(LABELS, SCORES, count=5).tolist() == [1, 3]
    assert most_confident_mistakes(LABELS, SCORES, count=1).tolist() == [1]


def test_correct_predictions_come_before_wrong_ones():
    assert correct_then_wrong(LABELS, SCORES, correct=20, wrong=1).tolist() == [0, 2, 1]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_with_any_number_of_channels_are_drawn_in_their_positions(channels):
    images = IMAGES.expand(4, channels, 8, 8)
    figure = tiles_figure(images, [Caption("a"), None, Caption("b"), Caption("c")], columns=2, title="title")
    drawn = figure.axes[0].images
    assert [image.get_array()[0, 0].tolist() for image in drawn] == [[v, v, v, 255] for v in (60, 180, 240)]
    places = [image.get_extent() for image in drawn]
    assert places[1][0] == places[0][0] < places[2][0]
    assert places[0][2] < places[1][2] == places[2][2]


def test_nothing_is_cut_off_at_the_edges():
    figure = predictions_figure(IMAGES, LABELS, SCORES, class_names=["automobile", "T-shirt/top", "x" * 30], title="t")
    picture = pixels(figure)
    assert (np.concatenate([picture[:, 0], picture[:, -1], picture[0], picture[-1]]) == 255).all()


def test_a_long_title_continues_on_the_next_line():
    title = "a title that is much longer than one image is wide"
    figure = tiles_figure(IMAGES[:1], [Caption("a")], columns=1, title=title)
    (text,) = figure.texts
    assert text.get_text().count("\n") >= 2
    assert text.get_text().replace("\n", " ") == title


def test_a_column_of_a_paper_has_fewer_images_in_a_row():
    with figure_width("column"):
        figure = predictions_figure(IMAGES, LABELS, SCORES, class_names=NAMES, title="t")
        wide = predictions_figure(
            IMAGES.repeat(3, 1, 1, 1), LABELS.repeat(3), SCORES.repeat(3, 1), class_names=NAMES, title="t"
        )
    assert figure.get_size_inches()[0] <= 3.6
    assert wide.get_size_inches()[0] <= 3.6
    assert len({round(image.get_extent()[2], 3) for image in wide.axes[0].images}) == 3, "rows of four images"
