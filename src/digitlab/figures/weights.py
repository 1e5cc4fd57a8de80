"""Figures of weights as images: those of a linear network's outputs, of an MLP's hidden units, of a CNN's filters.

``figures.gallery`` draws them for a run. All images of a figure share one symmetric colour scale: zero is white, or
mid-grey if three channels are shown as RGB. Shapes: K classes, U hidden units, F filters.
"""

from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.style import SIGNED_MAP, TEXT_COLOUR, short, styled
from digitlab.figures.tiles import Caption, tiles_figure

# With more names than this beside an axis, a normal font would make them overlap.
_MOST_LARGE_NAMES = 50
_SCALE_INCHES, _SCALE_HEIGHT_INCHES = 0.8, 1.3  # space for the colour scale beside the images, and its height


def signed_images(weights: Tensor, *, limit: float) -> Tensor:
    """Turn weights (N, C, H, W) into colours, float (N, 3, H, W) in [0, 1], on a scale from -``limit`` to ``limit``.

    Three channels are shown as RGB around mid-grey; any other number as their mean, from blue to red.
    """
    # If all weights are 0, ``limit`` is 0 as well, and any divisor gives the middle of the scale.
    scaled = (weights.float() / (2 * limit or 1.0) + 0.5).clamp(0, 1)
    if weights.shape[1] == 3:
        return scaled
    colours = torch.from_numpy(colormaps[SIGNED_MAP](scaled.mean(1).numpy())[..., :3])
    return colours.permute(0, 3, 1, 2)


@styled
def output_weights_figure(weights: Tensor, biases: Tensor | None, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw the weights of each output, (K, C, H, W), as an image, and the biases (K,) as bars beside them."""
    figure = _signed_tiles(
        weights, [short(name) for name in class_names], columns=5 if len(class_names) <= 20 else 10, title=title
    )
    if biases is None:
        return figure
    width, height = figure.get_size_inches()
    bars_inches = 2.6
    _widen(figure, bars_inches)
    left, total = width + 1.0, width + bars_inches
    axes = figure.add_axes((left / total, 0.45 / height, (total - left - 0.1) / total, (height - 0.85) / height))
    places = range(len(biases))
    axes.barh(places, biases.tolist(), color=[_sign_colour(value) for value in biases.tolist()])
    axes.axvline(0, color=TEXT_COLOUR, linewidth=0.8)
    axes.set_yticks(places, [short(name) for name in class_names])
    if len(biases) > _MOST_LARGE_NAMES:
        axes.tick_params(axis="y", labelsize=5)
    axes.invert_yaxis()
    axes.set_xlabel("bias")
    axes.set_ylabel("output")
    return figure


def _sign_colour(value: float) -> tuple[float, ...]:
    """Return red for positive values and blue for negative ones, in tones of the colour map of the weights."""
    return tuple(colormaps[SIGNED_MAP](0.85 if value >= 0 else 0.15))


@styled
def hidden_units_figure(
    incoming: Tensor, outgoing: Tensor, *, classes: Sequence[int], class_names: Sequence[str], units: int, title: str
) -> Figure:
    """Draw one row for each of ``classes``: the ``units`` hidden units with the largest outgoing weights to it.

    ``incoming`` (U, C, H, W) holds the weights from the pixels to each hidden unit, which are its image. ``outgoing``
    (K, U) holds the weights from the hidden units to the outputs.
    """
    chosen = outgoing[list(classes)].topk(min(units, outgoing.shape[1]), dim=1)
    captions = [
        f"→ {short(class_names[label])}\nunit {unit}: {weight:+.2f}"
        for label, row, weights in zip(classes, chosen.indices.tolist(), chosen.values.tolist(), strict=True)
        for unit, weight in zip(row, weights, strict=True)
    ]
    columns = chosen.indices.shape[1]
    return _signed_tiles(incoming[chosen.indices.flatten()], captions, columns=columns, title=title)


@styled
def filters_figure(filters: Tensor, *, title: str) -> Figure:
    """Draw the filters of the first layer, (F, C, h, w), as images."""
    captions = [f"filter {number}" for number in range(len(filters))]
    return _signed_tiles(filters, captions, columns=min(8, len(filters)), title=title)


def _signed_tiles(weights: Tensor, captions: Sequence[str], *, columns: int, title: str) -> Figure:
    """Draw weights (N, C, H, W) as images with captions below them and a colour scale beside them."""
    coloured = weights.shape[1] == 3
    # The scale ends at the largest value that is drawn: RGB shows each channel, otherwise the mean of the channels.
    limit = float(weights.abs().max() if coloured else weights.mean(1).abs().max())
    figure = tiles_figure(
        signed_images(weights, limit=limit), [Caption(text) for text in captions], columns=columns,
        title=f"{title}, each channel in its colour" if coloured else title,
    )  # fmt: skip
    _add_scale(figure, limit, coloured=coloured)
    return figure


def _add_scale(figure: Figure, limit: float, *, coloured: bool) -> None:
    """Add a colour scale from -``limit`` to ``limit`` on the right."""
    width, height = figure.get_size_inches()
    _widen(figure, _SCALE_INCHES)
    total = width + _SCALE_INCHES
    scale_inches = min(_SCALE_HEIGHT_INCHES, 0.6 * height)
    top = height - 0.35
    axes = figure.add_axes(((width + 0.08) / total, (top - scale_inches) / height, 0.09 / total, scale_inches / height))
    scale = ScalarMappable(Normalize(-limit, limit), "gray" if coloured else SIGNED_MAP)
    bar = figure.colorbar(scale, cax=axes)
    bar.set_label("weight")
    axes.tick_params(labelsize=6)
    axes.grid(visible=False)


def _widen(figure: Figure, inches: float) -> None:
    """Add empty space on the right; everything else keeps its size and position."""
    width, height = figure.get_size_inches()
    ratio = width / (width + inches)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0 * ratio, box.y0, box.width * ratio, box.height))
    for text in figure.texts:
        text.set_x(text.get_position()[0] * ratio)
    figure.set_size_inches(width + inches, height)
