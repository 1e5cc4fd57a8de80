"""The common style: contrast of the colours, file formats, widths, unchanged Matplotlib settings."""

import itertools
import re

import matplotlib
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from digitlab.figures import style
from digitlab.figures.style import LINE_STYLES, SPLIT_STYLES, encode, figure_width, pixels, short, styled


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    """Return the relative luminance as defined in WCAG 2.1, from 0 to 1."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", ["TEXT_COLOUR", "BLUE", "ORANGE", "GREEN", "PURPLE", "OLIVE"])
def test_every_text_colour_has_a_contrast_of_at_least_4_5_with_the_background(name):
    assert contrast(getattr(style, name), style.BACKGROUND_COLOUR) >= 4.5


@pytest.mark.parametrize("name", [style.METRIC_MAP, style.SIGNED_MAP, "Oranges"])
def test_numbers_on_a_heat_map_have_a_contrast_of_at_least_4_5(name):
    for shade in np.linspace(0, 1, 256):
        background = to_hex(colormaps[name](shade))
        text = {"black": "#000000", "white": "#ffffff"}[style.text_colour_on(background)]
        assert contrast(text, background) >= 4.5


def test_splits_and_lines_differ_in_more_than_colour():
    for one, other in itertools.combinations(SPLIT_STYLES.values(), 2):
        assert one[1] != other[1]
        assert one[2] != other[2]
    assert len(set(LINE_STYLES)) == len(LINE_STYLES) >= 10


@pytest.mark.parametrize(
    ("panels", "most_columns", "screen"), [(3, None, (1, 3)), (2, 3, (1, 2)), (7, 3, (3, 3)), (0, 3, (1, 1))]
)
def test_panels_are_side_by_side_or_in_a_column_of_a_paper_below_each_other(panels, most_columns, screen):
    assert style.panel_grid(panels, most_columns=most_columns) == screen
    with figure_width("column"):
        assert style.panel_grid(panels, most_columns=most_columns) == (max(panels, 1), 1)


def test_a_styled_figure_is_white_and_matplotlib_keeps_its_settings():
    before = dict(matplotlib.rcParams)

    @styled
    def draw():
        figure = Figure()
        figure.add_subplot().plot([0, 1])
        return figure

    picture = pixels(draw())
    assert picture[0, 0].tolist() == [255, 255, 255, 255]
    assert (picture[..., :3] < 255).any()
    assert dict(matplotlib.rcParams) == before


def test_pixels_have_the_size_of_the_figure():
    picture = pixels(Figure(figsize=(3, 2), dpi=50))
    assert picture.shape == (100, 150, 4)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(("file_format", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_files_have_the_format_and_are_reproducible(file_format, start):
    files = []
    for _ in range(2):
        figure = Figure(figsize=(3, 2))
        figure.add_subplot().plot([0, 1], label="line")
        files.append(encode(figure, file_format))
    assert files[0].startswith(start)
    assert files[0] == files[1]


@pytest.mark.parametrize(("width", "inches"), [("column", 3.5), ("page", 7.2)])
def test_figures_get_the_width_of_a_paper(width, inches):
    with figure_width(width):
        document = encode(Figure(figsize=(5, 2)), "svg").decode()
    assert float(re.search(r'width="([\d.]+)pt"', document)[1]) / 72 == pytest.approx(inches, abs=0.01)
    assert style.width_inches() is None


@pytest.mark.parametrize(("name", "shown"), [("cat", "cat"), ("a" * 11, "a" * 11), ("a" * 12, "a" * 10 + "…")])
def test_long_names_are_cut(name, shown):
    assert short(name) == shown


def test_names_are_drawn_as_they_are_written():
    def drawn(text):
        figure = Figure(figsize=(2, 1))
        figure.text(0, 0.5, text)
        return pixels(figure)

    # Between two dollar signs Matplotlib would read a formula, and fail at \frac without arguments.
    assert np.array_equal(drawn(short("5 $ + $")), drawn(r"5 \$ + \$"))
    drawn(short(r"$\frac$"))
    # A letter that no font has is a box, without a warning.
    drawn(short("\U0001f9ff"))
