"""Figures that explain predictions: heat maps over images with the nearest training images, and images of classes.

Shapes: C channels, H rows, W columns, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.formatting import format_confidence
from digitlab.figures.images import prediction_caption
from digitlab.figures.style import CORRECT_COLOUR, SIGNED_MAP, WRONG_COLOUR, cut, literal, short, styled
from digitlab.figures.tiles import Caption, rgba, tiles_figure
from digitlab.figures.weights import signed_images

# How much of the image shows through a heat map.
_IMAGE_SHARE = 0.35
_LETTERS = 16  # that fit under a tile


@dataclass(frozen=True, slots=True)
class NearImage:
    """A training image (C, H, W), its label, and the cosine in [-1, 1] of its last hidden layer with the other's."""

    image: Tensor
    label: int
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedImage:
    """One explained image.

    ``image`` is (C, H, W), uint8 or float in [0, 1]; ``scores`` (K,) are its confidences; ``target`` is the class that
    the ``maps`` (H, W), by method, explain; ``label`` is its true class if that is known.
    """

    image: Tensor
    name: str
    scores: Tensor
    target: int
    label: int | None
    maps: Mapping[str, Tensor]
    near: Sequence[NearImage]


@styled
def explanations_figure(
    rows: Sequence[ExplainedImage], *, class_names: Sequence[str], title: str, candidates: int
) -> Figure:
    """Draw a row for each image; ``candidates`` is the number of training images among which the nearest were found."""
    tiles: list[Tensor] = []
    captions: list[Caption | None] = []
    for row in rows:
        tiles.append(_colours(row.image))
        captions.append(_caption(row, class_names))
        for method, heat in row.maps.items():
            tiles.append(heat_colours(heat, row.image))
            captions.append(Caption(f"{method.replace(' ', chr(10), 1)}\nfor {short(class_names[row.target])}"))
        for near in row.near:
            tiles.append(_colours(near.image))
            agrees = near.label == (row.target if row.label is None else row.label)
            text = f"training image\n{short(class_names[near.label])}\ncosine {near.similarity:.3f}"
            captions.append(Caption(text, CORRECT_COLOUR if agrees else WRONG_COLOUR))
    explained = "red speaks for the class, blue against it; each map has its own scale"
    return tiles_figure(
        torch.stack(tiles), captions, columns=1 + len(rows[0].maps) + len(rows[0].near),
        title=f"{title}. Maps: {explained}. Right: the nearest of {candidates:,} training images by the last hidden "
        "layer, blue if they have the true class (for an image without a label, the explained class)",
    )  # fmt: skip


def _caption(row: ExplainedImage, class_names: Sequence[str]) -> Caption:
    confidence, predicted = row.scores.max(0)
    if row.label is None:
        answer = Caption(short(class_names[int(predicted)]))
    else:
        answer = prediction_caption(int(predicted), row.label, class_names=class_names)
    name = literal(cut(row.name.rpartition("/")[2], _LETTERS))
    return Caption(f"{name}\n{answer.text}\n{format_confidence(float(confidence))}", answer.colour)


def heat_colours(heat: Tensor, image: Tensor) -> Tensor:
    """Return a heat map (H, W) as colours, float (3, H, W) in [0, 1], with a trace of the image (C, H, W) below it.

    White is zero, the strongest red or blue is the largest absolute value. Where the image differs most from its most
    frequent brightness, the colours are darker, so that its shape is visible.
    """
    limit = float(heat.abs().max()) or 1.0
    place = (heat.float() / (2 * limit) + 0.5).clamp(0, 1)
    colours = torch.from_numpy(colormaps[SIGNED_MAP](place.numpy())[..., :3]).float().permute(2, 0, 1)
    grey = _colours(image).mean(0)
    difference = (grey - grey.median()).abs()
    return colours * (1 - _IMAGE_SHARE * difference / max(float(difference.max()), 1e-6))


def _colours(image: Tensor) -> Tensor:
    """Return an image (C, H, W) as float (3, H, W) in [0, 1]."""
    return torch.from_numpy(rgba(image[None])[0, :, :, :3]).float().permute(2, 0, 1) / 255


@styled
def class_images_figure(images: Tensor, scores: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw the image of each class, float (K, C, H, W) in [0, 1], above its name and its confidence; scores (K, K)."""
    captions = [
        Caption(f"{short(name)}\n{format_confidence(float(scores[label, label]))}")
        for label, name in enumerate(class_names)
    ]
    return tiles_figure(images, captions, columns=min(10, len(captions)), title=title, wrap=True)


@styled
def feature_maps_figure(
    image: Tensor, maps: Mapping[str, Tensor], *, filters: Tensor, columns: int, title: str
) -> Figure:
    """Draw an image (C, H, W), the ``filters`` (F, C, h, w) of the first convolution, and maps of each convolution.

    ``maps`` are (F, h, w) by the name of the convolution, for F filters. Each map has its own scale: white is zero, red
    positive, blue negative. A row has ``columns`` tiles; a convolution shows the maps with the largest absolute values.
    Filters are shown as in ``weights.filters_figure``.
    """
    height, width = image.shape[1:]
    blank = torch.ones(3, height, width)
    coloured = signed_images(filters, limit=float(filters.abs().max())).float()
    tiles: list[Tensor] = [_colours(image)]
    captions: list[Caption | None] = [Caption("image")]
    for number, own in enumerate(coloured[: columns - 1]):
        tiles.append(torch.nn.functional.interpolate(own[None], size=(height, width))[0])
        captions.append(Caption(f"weights of\nfilter {number}"))
    tiles += [blank] * (columns - len(tiles))
    captions += [None] * (columns - len(captions))
    for name, own in maps.items():
        strongest = own.abs().amax((1, 2)).topk(min(columns, len(own))).indices.sort().values.tolist()
        for number in strongest:
            heat = torch.nn.functional.interpolate(own[None, None, number].float(), size=(height, width))[0, 0]
            tiles.append(heat_colours(heat, torch.zeros(1, height, width)))
            captions.append(Caption(f"{short(name, 13)}\nfilter {number}"))
        empty = columns - len(strongest)
        tiles += [blank] * empty
        captions += [None] * empty
    return tiles_figure(torch.stack(tiles), captions, columns=columns, title=title)
