"""Pictures of images beside what a network says of them: right and wrong ones, told apart by colour and mark.

N images, C, H, W, K classes. ``images`` is uint8 (N, C, H, W), or float in [0, 1]; ``labels`` int64 (N,); ``scores``
float (N, K), confidences in [0, 1]. Functions return a Matplotlib figure; who calls them saves it.
"""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.style import RIGHT_COLOUR, RIGHT_MARK, WRONG_COLOUR, WRONG_MARK, short, styled
from digitlab.figures.tiles import Caption, tiles_figure

_COLUMNS = 10


@styled
def labelled_figure(images: Tensor, labels: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Each image over its label, seven a row."""
    captions = [Caption(short(class_names[label])) for label in labels.tolist()]
    return tiles_figure(images, captions, columns=min(7, len(images)), title=title)


@styled
def predictions_figure(
    images: Tensor, labels: Tensor, scores: Tensor, *, class_names: Sequence[str], title: str
) -> Figure:
    """Each image over its predicted class: ✓ and blue where right; ✗, orange and the label where wrong."""
    captions = [
        answer(predicted, label, class_names=class_names)
        for predicted, label in zip(scores.argmax(1).tolist(), labels.tolist(), strict=True)
    ]
    return tiles_figure(images, captions, columns=_COLUMNS, title=title)


@styled
def mistakes_figure(
    images: Tensor, labels: Tensor, scores: Tensor, *, class_names: Sequence[str], title: str
) -> Figure:
    """Like ``predictions_figure``, each with the confidence of the predicted class, in per cent."""
    confidence, predicted = scores.max(1)
    captions = []
    for own, label, share in zip(predicted.tolist(), labels.tolist(), confidence.tolist(), strict=True):
        caption = answer(own, label, class_names=class_names)
        captions.append(Caption(f"{caption.text}\n{100 * share:.1f} % sure", caption.colour))
    return tiles_figure(images, captions, columns=_COLUMNS, title=title)


def answer(predicted: int, label: int, *, class_names: Sequence[str]) -> Caption:
    """The caption of a prediction: a mark, the predicted class, and below it the label where that is another."""
    if predicted == label:
        return Caption(f"{RIGHT_MARK} {short(class_names[predicted])}", RIGHT_COLOUR)
    text = f"{WRONG_MARK} {short(class_names[predicted])}\nis {short(class_names[label])}"
    return Caption(text, WRONG_COLOUR)


def right_then_wrong(labels: Tensor, scores: Tensor, *, right: int, wrong: int) -> Tensor:
    """Indices, int64, of the first ``right`` images that are recognised, then of the first ``wrong`` that are not."""
    hits = scores.argmax(1) == labels
    return torch.cat([hits.nonzero().flatten()[:right], (~hits).nonzero().flatten()[:wrong]])


def most_confident_mistakes(labels: Tensor, scores: Tensor, *, count: int) -> Tensor:
    """Indices, int64, of at most ``count`` images that are not recognised, the most confident mistake first."""
    confidence, predicted = scores.max(1)
    mistakes = (predicted != labels).nonzero().flatten()
    return mistakes[confidence[mistakes].argsort(descending=True, stable=True)][:count]
