"""Pictures of what is taken for what: the confusion matrix as heat maps, and the most confused pairs with examples.

K classes, N images. Functions take tensors and return a Matplotlib figure; who calls them saves it.
"""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.images import answer
from digitlab.figures.style import SHARE_MAP, short, styled
from digitlab.figures.tiles import Caption, tiles_figure


@styled
def confusion_figure(confusion: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """``confusion``, int64 (K, K), true by predicted class, as two heat maps: counts, and per cent of each row."""
    classes = len(class_names)
    side = max(3.0, 0.36 * classes + 1.0)
    figure = Figure(figsize=(2 * side + 1.2, side + 0.4), layout="compressed")
    figure.suptitle(title, x=0.01, ha="left")
    counts, shares = figure.subplots(1, 2)
    percent = 100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    _heat_map(figure, counts, confusion.float(), class_names, form="{:.0f}", label="images")
    _heat_map(figure, shares, percent, class_names, form="{:.1f}", label="% of the true class")
    return figure


def _heat_map(figure: Figure, axes: Axes, values: Tensor, class_names: Sequence[str], *, form: str, label: str) -> None:
    picture = axes.imshow(values.numpy(), cmap=SHARE_MAP, vmin=0)
    places, names = range(len(class_names)), [short(name) for name in class_names]
    slanted = max(map(len, names)) > 2
    axes.set_xticks(places, names, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(places, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    middle = float(values.max()) / 2
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            if value:
                colour = "black" if value > middle else "white"
                axes.text(column, row, form.format(value), ha="center", va="center", fontsize=5.5, color=colour)
    figure.colorbar(picture, ax=axes, label=label, shrink=0.8)


@styled
def confused_pairs_figure(
    images: Tensor,
    labels: Tensor,
    predicted: Tensor,
    *,
    class_names: Sequence[str],
    pairs: int,
    examples: int,
    title: str,
) -> Figure:
    """The ``pairs`` of classes most often confused, a row each: how often, over the first ``examples`` images of it.

    ``images`` is uint8 (N, C, H, W), ``labels`` and ``predicted`` int64 (N,).
    """
    shown: list[Tensor] = []
    captions: list[Caption | None] = []
    for label, taken_for, count in most_confused(labels, predicted, classes=len(class_names), pairs=pairs):
        found = ((labels == label) & (predicted == taken_for)).nonzero().flatten()[:examples]
        empty = examples - len(found)
        shown += [images[found], images[:1].expand(empty, -1, -1, -1)]
        caption = answer(taken_for, label, class_names=class_names)
        first = Caption(f"{caption.text}\n{count} times", caption.colour)
        captions += [first, *[caption] * (len(found) - 1), *[None] * empty]
    return tiles_figure(torch.cat(shown), captions, columns=examples, title=title)


def most_confused(labels: Tensor, predicted: Tensor, *, classes: int, pairs: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, how often) of at most ``pairs`` confusions, the most frequent first.

    ``labels`` and ``predicted`` are int64 (N,); a confusion that never happens is none.
    """
    counts = (labels * classes + predicted).bincount(minlength=classes * classes).view(classes, classes)
    counts.fill_diagonal_(0)
    order = counts.flatten().argsort(descending=True, stable=True)[:pairs].tolist()
    cells = [(*divmod(cell, classes), int(counts.flatten()[cell])) for cell in order]
    return [cell for cell in cells if cell[2] > 0]
