"""The common style of all figures, and saving them as PNG, PDF or SVG in a width that suits a paper.

Figures have a white background, because no text colour has a contrast of 4.5 : 1 with both white and near-black pages.
The hues follow Okabe and Ito (2008), whose palette colour-blind readers can tell apart. No figure uses colour as the
only difference between two things: line style, marker or text differs as well.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Literal, ParamSpec, TypeVar, cast

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from matplotlib.typing import ColorType

P = ParamSpec("P")
R = TypeVar("R")

BACKGROUND_COLOUR = "#ffffff"
TEXT_COLOUR = "#4d4d4d"
# Captions use these colours as well, so each has a contrast of at least 4.5 : 1 with the background.
BLUE, ORANGE, GREEN, PURPLE, OLIVE = "#0b6cb0", "#b84c00", "#007a58", "#9c4577", "#7f6200"
CORRECT_COLOUR, WRONG_COLOUR = BLUE, ORANGE
CORRECT_MARK, WRONG_MARK = "✓", "✗"

# (colour, line style) for many lines in one figure: neighbours differ in colour, and lines of one colour in style.
LINE_STYLES = [(colour, style) for style in ("-", "--", ":", "-.") for colour in (BLUE, ORANGE, GREEN, PURPLE, OLIVE)]

# Every figure draws a split in the same style: (colour, line style, marker).
SPLIT_STYLES = {"train": (BLUE, "-", "o"), "val": (ORANGE, "--", "s"), "test": (GREEN, ":", "^")}
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}

# Names of Matplotlib's colour maps. SIGNED_MAP colours weights and other numbers with a sign: red is positive, blue is
# negative, white is zero. METRIC_MAP colours the values of a metric: dark is low, bright is high.
SIGNED_MAP, METRIC_MAP = "RdBu_r", "cividis"

Format = Literal["png", "pdf", "svg"]
Width = Literal["column", "page"]
# The widths of a column and of the text block of a usual two-column paper.
WIDTH_INCHES: dict[Width, float] = {"column": 3.5, "page": 7.2}
_SMALLEST_POINTS = 5.0  # the smallest font size that is readable in print
# The width of a paper for which figures are drawn at the moment; ``figure_width`` sets it. None means the natural size
# of each figure, for a screen.
_width: ContextVar[Width | None] = ContextVar("figure width", default=None)


def _installed(*fonts: str) -> list[str]:
    """Return those of the fonts that are installed."""
    return [font for font in fonts if font in {entry.name for entry in fontManager.ttflist}]


_STYLE = {
    "figure.facecolor": BACKGROUND_COLOUR,
    "savefig.facecolor": BACKGROUND_COLOUR,
    "axes.facecolor": BACKGROUND_COLOUR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "figure.titlesize": 10,
    "font.size": 8,
    # DejaVu Sans has no Chinese or Japanese letters. The other fonts draw them, if they are installed.
    "font.family": ["DejaVu Sans", *_installed("Noto Sans CJK JP", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei")],
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "figure.dpi": 150,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3 fonts
    "svg.hashsalt": "digitlab",  # constant identifiers in an SVG file, so that the same figure gives the same file
} | dict.fromkeys(
    ("text.color", "axes.titlecolor", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"),
    TEXT_COLOUR,
)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator: run ``draw`` with the common style and restore Matplotlib's settings afterwards."""

    @wraps(draw)
    def styled_draw(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return styled_draw


def cut(name: str, letters: int) -> str:
    """Cut a class name to at most ``letters`` characters."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def short(name: str, letters: int = 11) -> str:
    """Cut a class name so that it fits under a small image, and return it as ``literal`` text for Matplotlib."""
    return literal(cut(name, letters))


def literal(text: str) -> str:
    """Escape dollar signs in ``text``, so that Matplotlib does not read the text between two of them as a formula."""
    return text.replace("$", r"\$")


def text_colour_on(colour: ColorType) -> str:
    """Return black or white, whichever has the higher contrast with the background ``colour`` (WCAG 2.1)."""
    luminance = relative_luminance(colour)
    # The contrast of two colours is (luminance of the lighter one + 0.05) / (luminance of the darker one + 0.05). Black
    # has the luminance 0, white 1.
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def relative_luminance(colour: ColorType) -> float:
    """Return the relative luminance of a colour as defined in WCAG 2.1, in [0, 1]."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(cast(str, colour))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@contextmanager
def figure_width(width: Width | None) -> Iterator[None]:
    """Draw and encode the figures inside the ``with`` block for a column or a page of a paper; None: natural size."""
    token = _width.set(width)
    try:
        yield
    finally:
        _width.reset(token)


def width_inches() -> float | None:
    """Return the width for which figures are drawn at the moment; None if there is no limit."""
    width = _width.get()
    return None if width is None else WIDTH_INCHES[width]


def panel_grid(panels: int, *, most_columns: int | None = None) -> tuple[int, int]:
    """Return the numbers of rows and columns in which a figure shows its ``panels``.

    At most ``most_columns`` are side by side (None: all); in a column of a paper, they are below each other. Without
    any panel there is one place, which stays empty.
    """
    columns = 1 if _width.get() == "column" else max(1, min(panels, most_columns or panels))
    return max(1, -(-panels // columns)), columns


@styled
def encode(figure: Figure, file_format: Format = "png", *, dots_per_inch: int | None = None) -> bytes:
    """Return the bytes of a file of the figure, resized to the width of a paper if ``figure_width`` sets one.

    ``dots_per_inch`` is by default 300 (as usual in print) if ``figure_width`` sets a width, otherwise that of the
    figure. PDF and SVG files use it only for the images inside a figure.
    """
    if (inches := width_inches()) is not None:
        _resize(figure, inches)
    file = io.BytesIO()
    # Without a date, the same figure gives the same file.
    metadata: dict[str, None] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[file_format]
    with _boxes_for_missing_glyphs():
        figure.savefig(file, format=file_format, metadata=metadata, dpi=dots_per_inch or (300 if inches else "figure"))
    return file.getvalue()


@contextmanager
def _boxes_for_missing_glyphs() -> Iterator[None]:
    """Hide Matplotlib's warnings about letters that no font has. It draws such a letter as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def _resize(figure: Figure, inches: float) -> None:
    """Scale the figure to a width of ``inches``. Text shrinks too, but not below a readable size, and never grows."""
    width, height = figure.get_size_inches()
    factor = inches / width
    figure.set_size_inches(inches, height * factor)
    if factor < 1:
        for text in figure.findobj(Text):
            text.set_fontsize(max(float(text.get_fontsize()) * factor, _SMALLEST_POINTS))


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """Render the figure: uint8 (rows, columns, RGBA)."""
    canvas = FigureCanvasAgg(figure)
    with _boxes_for_missing_glyphs():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())
