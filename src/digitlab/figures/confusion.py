"""Pictures of what is taken for what: the confusion matrix as heat maps, and the most confused pairs with examples.

K classes, N images. Functions take tensors and return a Matplotlib figure; who calls them saves it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from digitlab.figures.images import answer
from digitlab.figures.style import SHARE_MAP, short, styled
from digitlab.figures.tiles import Caption, tiles_figure


@styled
def confusion_figure(confusion: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """``confusion``, int64 (K, K), true by predicted class, as two heat maps: counts, and per cent of each row.

    The scales go by the largest class and by 100 %: a colour means the same for every network.
    """
    figure = _frame(int(confusion.sum(1).max()), class_names, title)
    _fill(figure, confusion)
    return figure


class ConfusionPicture:
    """``confusion_figure`` as pixels, for many networks that are put to one test.

    Axes, names and scales are drawn once, as they take most of the time. ``largest_class`` is how many images of the
    test are of one class, at most.
    """

    @styled
    def __init__(self, largest_class: int, *, class_names: Sequence[str], title: str) -> None:
        self._figure = _frame(largest_class, class_names, title)
        for axes in self._figure.axes[:2]:
            axes.images[0].set_animated(True)
        self._canvas = FigureCanvasAgg(self._figure)
        self._canvas.draw()
        self._drawn_once = self._canvas.copy_from_bbox(self._figure.bbox)

    @styled
    def pixels(self, confusion: Tensor) -> npt.NDArray[np.uint8]:
        """The picture, uint8 (rows, columns, RGBA), of a network's ``confusion``, int64 (K, K)."""
        self._canvas.restore_region(self._drawn_once)
        cells = _fill(self._figure, confusion)
        for axes in self._figure.axes[:2]:
            for artist in (*axes.images, *axes.texts):
                axes.draw_artist(artist)
        for cell in cells:
            cell.remove()
        return np.array(self._canvas.buffer_rgba())


def _frame(largest_class: int, class_names: Sequence[str], title: str) -> Figure:
    """Both heat maps, all zeros yet."""
    side = max(3.0, 0.36 * len(class_names) + 1.0)
    figure = Figure(figsize=(2 * side + 1.2, side + 0.4), layout="compressed")
    figure.suptitle(title, x=0.01, ha="left")
    counts, shares = figure.subplots(1, 2)
    _heat_map(figure, counts, class_names, top=max(largest_class, 1), label="images")
    _heat_map(figure, shares, class_names, top=100, label="% of the true class")
    return figure


def _heat_map(figure: Figure, axes: Axes, class_names: Sequence[str], *, top: int, label: str) -> None:
    places, names = range(len(class_names)), [short(name) for name in class_names]
    picture = axes.imshow(np.zeros((len(names), len(names))), cmap=SHARE_MAP, vmin=0, vmax=top)
    slanted = max(map(len, names)) > 2
    axes.set_xticks(places, names, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(places, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axes, label=label, shrink=0.8)


def _fill(figure: Figure, confusion: Tensor) -> list[Text]:
    """Show ``confusion``; the numbers come back."""
    percent = 100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    cells = []
    for axes, values, form in zip(figure.axes[:2], (confusion.float(), percent), ("{:.0f}", "{:.1f}"), strict=True):
        picture = axes.images[0]
        picture.set_data(values.numpy())
        top = picture.norm.vmax
        assert isinstance(top, float)
        for row, line in enumerate(values.tolist()):
            for column, value in enumerate(line):
                if value:
                    colour, text = "black" if value > top / 2 else "white", form.format(value)
                    cells.append(axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour))
    return cells


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
