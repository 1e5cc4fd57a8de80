"""Figures of weights: one symmetric scale for all images, and the units with the largest outgoing weights."""

import pytest
import torch

from digitlab.figures.weights import filters_figure, hidden_units_figure, output_weights_figure, signed_images

NAMES = ["cat", "dog", "ox"]


def tiles(figure):
    """Return the images of a grid figure as (N, H, W, RGBA)."""
    return torch.stack([torch.from_numpy(image.get_array().copy()) for image in figure.axes[0].images])


def test_zero_is_the_middle_of_the_scale_and_opposite_weights_are_opposite_colours():
    low, zero, high = signed_images(torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1, 1), limit=2.0).view(3, 3)
    assert zero.min() > 0.95
    assert high[0] > high[2]
    assert low[2] > low[0]


def test_three_channels_are_red_green_and_blue_around_grey():
    colours = signed_images(torch.tensor([0.0, 1.0, -1.0]).view(1, 3, 1, 1), limit=1.0)
    assert colours.flatten().tolist() == [0.5, 1.0, 0.0]


def test_weights_that_are_all_zero_can_be_drawn():
    assert signed_images(torch.zeros(1, 1, 2, 2), limit=0.0).isfinite().all()


def test_all_outputs_share_one_symmetric_scale():
    weights = torch.zeros(3, 1, 2, 2)
    weights[0, 0, 0, 0], weights[1, 0, 0, 0] = 0.5, -1.0
    figure = output_weights_figure(weights, None, class_names=NAMES, title="title")
    scale = figure.axes[1]
    assert scale.get_ylim() == (-1, 1)
    assert scale.get_ylabel() == "weight"
    expected = (signed_images(weights, limit=1.0) * 255).round().byte().permute(0, 2, 3, 1)
    assert torch.equal(tiles(figure)[..., :3], expected)


def test_biases_are_drawn_as_bars_with_class_names():
    biases = torch.tensor([0.1, -0.2, 0.0])
    figure = output_weights_figure(torch.ones(3, 1, 2, 2), biases, class_names=NAMES, title="title")
    bars = figure.axes[-1]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(biases.tolist())
    assert [tick.get_text() for tick in bars.get_yticklabels()] == NAMES
    assert (bars.get_xlabel(), bars.get_ylabel()) == ("bias", "output")


def test_units_with_the_largest_outgoing_weights_are_drawn_for_each_class():
    incoming = torch.linspace(-1, 1, 4).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    outgoing = torch.tensor([[0.0, 1.0, 2.0, 3.0], [9.0, 8.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]])
    figure = hidden_units_figure(incoming, outgoing, classes=[1, 2], class_names=NAMES, units=2, title="title")
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert captions[:3] == ["→ dog\nunit 0: +9.00", "→ dog\nunit 1: +8.00", "→ ox\nunit 2: +5.00"]
    expected = (signed_images(incoming[[0, 1, 2]], limit=1.0) * 255).round().byte().permute(0, 2, 3, 1)
    assert torch.equal(tiles(figure)[:3, ..., :3], expected)


def test_every_filter_is_drawn():
    assert len(tiles(filters_figure(torch.randn(11, 3, 5, 5), title="title"))) == 11
