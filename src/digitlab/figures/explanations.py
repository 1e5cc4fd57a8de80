"""Figures for ``digitlab explain``: heat maps over images with similar training images, images of classes, and filters.

A heat map has one number for each pixel: positive if the pixel speaks for a class, negative if it speaks against it.
Shapes: C channels, H rows, W columns, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.formatting import format_confidence
from digitlab.figures.images import prediction_caption
from digitlab.figures.style import CORRECT_COLOUR, WRONG_COLOUR, cut, literal, short, styled
from digitlab.figures.tiles import Caption, rgba, tiles_figure
from digitlab.figures.weights import signed_images

# Where an image shows through its heat map, the colours lose at most this share of their brightness.
_IMAGE_SHARE = 0.35
_LETTERS = 16  # the length of a line of text that fits below an image


@dataclass(frozen=True, slots=True)
class NearImage:
    """A training image (C, H, W) that is near an explained image for the network, and its label.

    ``similarity`` is the cosine, in [-1, 1], of the outputs of the last hidden layer for the two images.
    """

    image: Tensor
    label: int
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedImage:
    """One explained image, which is one row of ``explanations_figure``.

    ``image`` is (C, H, W), uint8 or float in [0, 1]; ``scores`` (K,) are its confidences. ``maps`` holds a heat map
    (H, W) for each method by name, all for the class ``target``. ``label`` is the true class, or None if it is unknown.
    ``nearest`` are the nearest training images.
    """

    image: Tensor
    name: str
    scores: Tensor
    target: int
    label: int | None
    maps: Mapping[str, Tensor]
    nearest: Sequence[NearImage]


@styled
def explanations_figure(
    rows: Sequence[ExplainedImage], *, class_names: Sequence[str], title: str, candidates: int
) -> Figure:
    """Draw a row for each image: the image itself, its heat maps, and the nearest training images.

    ``candidates`` is the number of training images that were compared. All rows have the same methods and equally many
    nearest images.
    """
    tiles: list[Tensor] = []
    captions: list[Caption | None] = []
    for row in rows:
        tiles.append(_colours(row.image))
        captions.append(_caption(row, class_names))
        for method, heat in row.maps.items():
            tiles.append(heat_colours(heat, row.image))
            two_lines = method.replace(" ", "\n", 1)
            captions.append(Caption(f"{two_lines}\nfor {short(class_names[row.target])}"))
        for near in row.nearest:
            tiles.append(_colours(near.image))
            same_class = near.label == (row.target if row.label is None else row.label)
            text = f"training image\n{short(class_names[near.label])}\ncosine {near.similarity:.3f}"
            captions.append(Caption(text, CORRECT_COLOUR if same_class else WRONG_COLOUR))
    legend = "red speaks for the class, blue against it; each map has its own scale"
    return tiles_figure(
        torch.stack(tiles), captions, columns=1 + len(rows[0].maps) + len(rows[0].nearest),
        title=f"{title}. Maps: {legend}. Right: the nearest of {candidates:,} training images by the last hidden "
        "layer, blue if they have the true class (for an image without a label, the explained class)",
    )  # fmt: skip


def _caption(row: ExplainedImage, class_names: Sequence[str]) -> Caption:
    confidence, predicted = row.scores.max(0)
    if row.label is None:
        prediction = Caption(short(class_names[int(predicted)]))
    else:
        prediction = prediction_caption(int(predicted), row.label, class_names=class_names)
    name = literal(cut(row.name.rpartition("/")[2], _LETTERS))
    return Caption(f"{name}\n{prediction.text}\n{format_confidence(float(confidence))}", prediction.colour)


def heat_colours(heat: Tensor, image: Tensor) -> Tensor:
    """Return a heat map (H, W) as colours, float (3, H, W) in [0, 1], through which the image (C, H, W) is visible.

    White is zero, the strongest red or blue is the largest absolute value. The more a pixel of the image differs from
    the median brightness, which is mostly that of the background, the darker its colour is. So shapes are visible.
    """
    limit = float(heat.abs().max()) or 1.0
    colours = signed_images(heat[None, None], limit=limit)[0].float()
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

    ``maps`` are the outputs of a convolution with F filters, (F, h, w), by its name. Each map has its own scale: white
    is zero, red positive, blue negative. Each row has ``columns`` images: first the image and filters, then one row of
    maps for each convolution, those with the largest absolute values. Filters are shown as in
    ``weights.filters_figure``.
    """
    height, width = image.shape[1:]
    blank = torch.ones(3, height, width)
    coloured = signed_images(filters, limit=float(filters.abs().max())).float()
    tiles: list[Tensor] = [_colours(image)]
    captions: list[Caption | None] = [Caption("image")]
    for number, filter_image in enumerate(coloured[: columns - 1]):
        tiles.append(torch.nn.functional.interpolate(filter_image[None], size=(height, width))[0])
        captions.append(Caption(f"weights of\nfilter {number}"))
    tiles += [blank] * (columns - len(tiles))
    captions += [None] * (columns - len(captions))
    for name, filter_maps in maps.items():
        strongest = filter_maps.abs().amax((1, 2)).topk(min(columns, len(filter_maps))).indices.sort().values.tolist()
        for number in strongest:
            heat = torch.nn.functional.interpolate(filter_maps[None, None, number].float(), size=(height, width))[0, 0]
            tiles.append(heat_colours(heat, torch.zeros(1, height, width)))  # no image shows through
            captions.append(Caption(f"{short(name, 13)}\nfilter {number}"))
        empty = columns - len(strongest)
        tiles += [blank] * empty
        captions += [None] * empty
    return tiles_figure(torch.stack(tiles), captions, columns=columns, title=title)
