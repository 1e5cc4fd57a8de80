"""A contact sheet (small images in a grid) of what ``digitlab show --check`` found in a data set.

Shapes: C channels, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.style import ORANGE, TEXT_COLOUR, short, styled
from digitlab.figures.tiles import Caption, tiles_figure

COLUMNS = 10
_LETTERS = 17  # the length of a line of text that fits below an image


@dataclass(frozen=True, slots=True)
class SheetImage:
    """One image (C, H, W) with lines of text below it; ``marked`` gives it a coloured frame."""

    image: Tensor
    lines: Sequence[str]
    marked: bool = False


@styled
def check_figure(sections: Sequence[Sequence[SheetImage]], *, title: str) -> Figure:
    """Draw a contact sheet. ``sections`` are lists of images; each starts a new row."""
    images: list[Tensor] = []
    captions: list[Caption | None] = []
    for section in sections:
        for item in section:
            images.append(item.image)
            text = "\n".join(short(line, _LETTERS) for line in item.lines)
            captions.append(Caption(text, ORANGE if item.marked else TEXT_COLOUR))
        empty = -len(section) % COLUMNS  # the number of places that stay empty in the last row of the section
        images += [torch.zeros_like(images[0])] * empty
        captions += [None] * empty
    return tiles_figure(torch.stack(images), captions, columns=COLUMNS, title=title)
