"""A diagram of a network's layers, from the image at the top to the logits at the bottom, for ``digitlab figures``.

The names, output shapes and parameter counts come from the network itself: forward hooks record them. ``digitlab
explain`` uses them as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn

from digitlab.figures.style import BLUE, GREEN, PURPLE, TEXT_COLOUR, styled
from digitlab.figures.tiles import blank_axes
from digitlab.models.layers import evaluating

# The height of a row, the widest bar, the width of the figure, and the height of the title. All lengths and positions
# in the figure are in inches.
_ROW_INCHES, _WIDEST_INCHES, _WIDTH_INCHES, _HEAD_INCHES = 0.34, 2.2, 6.4, 0.45
_NARROWEST_INCHES = 0.8  # the narrowest bar: the name of a type has to fit into it
# The distance from the top of a row to the centre of its bar, and half the height of a bar.
_CENTRE_INCHES, _HALF_BAR_INCHES = 0.12, 0.09
_COLOURS = {nn.Linear: BLUE, nn.Conv2d: GREEN}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its name in the network, its type, the shape of its output for one image, its number of parameters."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    colour: str = PURPLE


@torch.no_grad()
def layers_of(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Return the layers of ``network`` in the order in which it calls them for an image of shape (C, H, W)."""
    called: list[Layer] = []

    def add_hook(name: str, layer: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor):
                return  # recurrent layers return a tuple; the diagram omits them
            parameters = sum(parameter.numel() for parameter in layer.parameters())
            colour = next((colour for kind, colour in _COLOURS.items() if isinstance(layer, kind)), PURPLE)
            called.append(Layer(name, type(layer).__name__, tuple(output.shape[1:]), parameters, colour))

        return layer.register_forward_hook(hook)

    # Modules that contain other modules only call them, so they are not layers of the diagram.
    handles = [add_hook(name, layer) for name, layer in network.named_modules() if not list(layer.children())]
    first_parameter = next(network.parameters())
    try:
        with evaluating(network):
            network(torch.zeros(1, *image_shape, dtype=first_parameter.dtype, device=first_parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    return called


@styled
def layers_figure(layers: Sequence[Layer], *, image_shape: tuple[int, int, int], title: str) -> Figure:
    """Draw ``layers`` as bars; the length of a bar is the logarithm of the number of output values."""
    rows = [Layer("image", "input", image_shape, 0, TEXT_COLOUR), *layers]
    height = len(rows) * _ROW_INCHES + _HEAD_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, height))
    figure.text(0.02, 1 - 0.08 / height, title, va="top", fontsize=9)
    parameters = sum(layer.parameters for layer in layers)
    note = f"{parameters:,} parameters; length of a bar: logarithm of the number of values"
    figure.text(0.02, 1 - 0.27 / height, note, va="top", fontsize=7)
    axes = blank_axes(figure, (0, 0, 1, 1 - _HEAD_INCHES / height))
    axes.set_xlim(0, _WIDTH_INCHES)
    axes.set_ylim(len(rows) * _ROW_INCHES, 0)
    middle, largest = _WIDTH_INCHES / 2, max(math.prod(row.shape) for row in rows)
    for number, row in enumerate(rows):
        top = number * _ROW_INCHES
        centre = top + _CENTRE_INCHES
        share = math.log(math.prod(row.shape) + 1) / math.log(largest + 1)
        width = max(_WIDEST_INCHES * share, _NARROWEST_INCHES)
        bar = FancyBboxPatch(
            (middle - width / 2, centre - _HALF_BAR_INCHES), width, 2 * _HALF_BAR_INCHES,
            boxstyle="round,pad=0.01", edgecolor=row.colour, facecolor="none",
        )  # fmt: skip
        axes.add_patch(bar)
        axes.text(middle, centre, row.kind, ha="center", va="center_baseline", color=row.colour)
        axes.text(middle - _WIDEST_INCHES / 2 - 0.15, centre, row.name, ha="right", va="center_baseline", fontsize=7)
        count = f"    {row.parameters:,} parameters" if row.parameters else ""
        shape = " × ".join(map(str, row.shape))
        axes.text(middle + _WIDEST_INCHES / 2 + 0.15, centre, shape + count, va="center_baseline", fontsize=7)
        if number:
            # From just below the bar above to just above this bar.
            arrow = ((middle, top - _ROW_INCHES + 0.23), (middle, top + 0.02))
            axes.add_patch(
                FancyArrowPatch(*arrow, arrowstyle="-|>", mutation_scale=6, color=TEXT_COLOUR, shrinkA=0, shrinkB=0)
            )
    return figure
