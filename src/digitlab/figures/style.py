"""The common style of all figures: transparent background, and colours that are readable on light and dark pages.

The hues follow Okabe and Ito (2008), whose palette colour-blind readers can tell apart. No figure uses colour as the
only difference between two things: line style, marker or text differs as well.
"""

import io
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

TEXT_COLOUR = "#7d7d7d"
BLUE, ORANGE, GREEN, PURPLE, OLIVE = "#1a7cbd", "#cc5a00", "#008a64", "#b5618f", "#8f6f00"
CORRECT_COLOUR, WRONG_COLOUR = BLUE, ORANGE
CORRECT_MARK, WRONG_MARK = "✓", "✗"

# For figures with many lines: neighbours differ in colour, and lines of one colour differ in style.
LINE_STYLES = [(colour, style) for style in ("-", "--", ":", "-.") for colour in (BLUE, ORANGE, GREEN, PURPLE, OLIVE)]

# Every figure draws a split in the same style: (colour, line style, marker).
SPLIT_STYLES = {"train": (BLUE, "-", "o"), "val": (ORANGE, "--", "s"), "test": (GREEN, ":", "^")}
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}

# Colour map of weights: red is positive, blue is negative, white is zero. Colour map of counts and shares: dark is low.
SIGNED_MAP, SHARE_MAP = "RdBu_r", "cividis"

_STYLE = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "figure.titlesize": 10,
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "figure.dpi": 150,
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


def short(name: str, letters: int = 11) -> str:
    """Cut a class name to at most ``letters`` characters, so that it fits under a small image."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def png(figure: Figure) -> bytes:
    """Return the bytes of a PNG file of the figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """Render the figure: uint8 (rows, columns, RGBA)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
