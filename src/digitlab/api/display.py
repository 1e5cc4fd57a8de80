"""Lets notebooks show the figures of ``Run`` and ``Comparisons`` below a cell."""

from functools import partial

from matplotlib.figure import Figure

from digitlab.figures.style import encode

# At this resolution most figures fit into a cell, which is about 900 pixels wide. More pixels would only make the
# notebook's file larger, because it contains the pictures.
_DOTS_PER_INCH = 96


def shown_in_notebooks(figure: Figure, description: str) -> Figure:
    """Let notebooks show ``figure`` as a picture if it is the last value of a cell, and return it.

    ``description`` is the text for readers who do not see the picture. Without this function a notebook would show the
    size of the figure as text, unless the user has imported pyplot before.
    """
    figure._repr_png_ = partial(_png_with_text, figure, description)  # type: ignore[attr-defined]  # IPython calls this
    return figure


def _png_with_text(figure: Figure, description: str) -> tuple[bytes, dict[str, str]]:
    return encode(figure, dots_per_inch=_DOTS_PER_INCH), {"alt": description}
