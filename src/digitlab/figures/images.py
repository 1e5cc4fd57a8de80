"""Figures of images with their labels or predictions. Wrong predictions differ from correct ones in colour and mark.

``figures.gallery`` draws them for a run; other figures of predictions use ``prediction_caption``.
``images`` is (N, C, H, W), uint8 or float in [0, 1]; ``labels`` is int64 (N,); ``scores`` is float (N, K), the
confidences in [0, 1] for K classes.
"""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.formatting import format_confidence
from digitlab.figures.style import CORRECT_COLOUR, CORRECT_MARK, WRONG_COLOUR, WRONG_MARK, short, styled
from digitlab.figures.tiles import Caption, tiles_figure

_COLUMNS = 10


@styled
def labelled_figure(images: Tensor, labels: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw each image above the name of its class, seven in a row."""
    captions = [Caption(short(class_names[label])) for label in labels.tolist()]
    return tiles_figure(images, captions, columns=min(7, len(images)), title=title, wrap=True)


@styled
def predictions_figure(
    images: Tensor, labels: Tensor, scores: Tensor, *, class_names: Sequence[str], title: str
) -> Figure:
    """Draw each image above its predicted class: ✓ and blue if correct; ✗, orange and the true class if wrong."""
    captions = [
        prediction_caption(predicted, label, class_names=class_names)
        for predicted, label in zip(scores.argmax(1).tolist(), labels.tolist(), strict=True)
    ]
    return tiles_figure(images, captions, columns=_COLUMNS, title=title, wrap=True)


@styled
def mistakes_figure(
    images: Tensor, labels: Tensor, scores: Tensor, *, class_names: Sequence[str], title: str
) -> Figure:
    """Draw images like ``predictions_figure``, with the confidence of the predicted class in per cent below."""
    confidence, predicted = scores.max(1)
    captions = []
    for predicted_label, label, value in zip(predicted.tolist(), labels.tolist(), confidence.tolist(), strict=True):
        caption = prediction_caption(predicted_label, label, class_names=class_names)
        captions.append(Caption(f"{caption.text}\n{format_confidence(value)}", caption.colour))
    return tiles_figure(images, captions, columns=_COLUMNS, title=title, wrap=True)


def prediction_caption(predicted: int, label: int, *, class_names: Sequence[str]) -> Caption:
    """Make the caption of a prediction: a mark, the predicted class and, if it is wrong, the true class below."""
    if predicted == label:
        return Caption(f"{CORRECT_MARK} {short(class_names[predicted])}", CORRECT_COLOUR)
    text = f"{WRONG_MARK} {short(class_names[predicted])}\ntrue: {short(class_names[label])}"
    return Caption(text, WRONG_COLOUR)


def correct_then_wrong(labels: Tensor, scores: Tensor, *, correct: int, wrong: int) -> Tensor:
    """Return the indices, int64, of the first ``correct`` correct and then the first ``wrong`` wrong predictions."""
    is_correct = scores.argmax(1) == labels
    return torch.cat([is_correct.nonzero().flatten()[:correct], (~is_correct).nonzero().flatten()[:wrong]])


def most_confident_mistakes(labels: Tensor, scores: Tensor, *, count: int) -> Tensor:
    """Return the indices, int64, of at most ``count`` wrong predictions, the most confident one first."""
    confidence, predicted = scores.max(1)
    mistakes = (predicted != labels).nonzero().flatten()
    return mistakes[confidence[mistakes].argsort(descending=True, stable=True)][:count]
