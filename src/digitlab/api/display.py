"""Lets notebooks show the figures of ``Run`` and ``Comparisons`` below a cell."""

from functools import partial

from matplotlib.figure import Figure

from digitlab.figures.style import encode

# A cell is about 900 pixels wide, and the notebook's file contains the picture.
_DOTS_PER_INCH = 96


def shown_in_notebooks(figure: Figure, description: str) -> Figure:
    """Return ``figure``, which a notebook now shows as a picture if it is the last value of a cell.

    ``description`` is the text for readers who do not see the picture. Without this function a notebook would show the
    size of the figure as text, unless its user has imported pyplot before.
    """
    figure._repr_png_ = partial(_picture, figure, description)  # type: ignore[attr-defined]  # IPython calls this
    return figure


def _picture(figure: Figure, description: str) -> tuple[bytes, dict[str, str]]:
    return encode(figure, dots_per_inch=_DOTS_PER_INCH), {"alt": description}
