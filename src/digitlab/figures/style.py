"""How all figures look: on no background of their own, in colours that stand out from light and from dark pages.

The colours differ in hue as Okabe and Ito (2008) chose them for colour-blind readers, at one lightness: each has a
contrast of 4 : 1 or more with white and with the usual near-blacks. No figure tells two things apart by colour alone.
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
RIGHT_COLOUR, WRONG_COLOUR = BLUE, ORANGE
RIGHT_MARK, WRONG_MARK = "✓", "✗"

# Lines of many kinds: neighbours differ in colour, and who has the same colour differs in the line.
LINE_LOOKS = [(colour, style) for style in ("-", "--", ":", "-.") for colour in (BLUE, ORANGE, GREEN, PURPLE, OLIVE)]

# A split looks the same in every figure: (colour, line style, marker).
SPLIT_LOOKS = {"train": (BLUE, "-", "o"), "val": (ORANGE, "--", "s"), "test": (GREEN, ":", "^")}
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}

# Weights: red is positive, blue negative, zero white. Counts and shares: dark is few, as on a black image.
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
    """Have ``draw`` make what it makes in the style of all, and leave Matplotlib's settings as they were."""

    @wraps(draw)
    def styled_draw(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return styled_draw


def short(name: str, letters: int = 11) -> str:
    """A class name that fits under a small image."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """What a figure looks like: uint8 (rows, columns, RGBA)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
