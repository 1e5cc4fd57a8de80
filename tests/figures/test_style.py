"""The common style: contrast of the colours, transparent background, unchanged Matplotlib settings."""

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from digitlab.figures import style
from digitlab.figures.style import LINE_STYLES, SPLIT_STYLES, pixels, short, styled

PAGES = ("#ffffff", "#0d1117")


def luminance(colour):
    """Return the relative luminance as defined in WCAG 2.1, from 0 to 1."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", ["TEXT_COLOUR", "BLUE", "ORANGE", "GREEN", "PURPLE", "OLIVE"])
@pytest.mark.parametrize("page", PAGES)
def test_every_colour_has_a_contrast_of_four_with_light_and_dark_pages(name, page):
    low, high = sorted([luminance(getattr(style, name)), luminance(page)])
    assert (high + 0.05) / (low + 0.05) >= 4


def test_splits_and_lines_differ_in_more_than_colour():
    for one, other in itertools.combinations(SPLIT_STYLES.values(), 2):
        assert one[1] != other[1]
        assert one[2] != other[2]
    assert len(set(LINE_STYLES)) == len(LINE_STYLES) >= 10


def test_a_styled_figure_has_no_background_and_matplotlib_keeps_its_settings():
    before = dict(matplotlib.rcParams)

    @styled
    def draw():
        figure = Figure()
        figure.add_subplot().plot([0, 1])
        return figure

    picture = pixels(draw())
    assert picture[0, 0, 3] == 0
    assert (picture[..., 3] > 0).any()
    assert dict(matplotlib.rcParams) == before


def test_pixels_have_the_size_of_the_figure():
    picture = pixels(Figure(figsize=(3, 2), dpi=50))
    assert picture.shape == (100, 150, 4)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(("name", "shown"), [("cat", "cat"), ("a" * 11, "a" * 11), ("a" * 12, "a" * 10 + "…")])
def test_long_names_are_cut(name, shown):
    assert short(name) == shown
