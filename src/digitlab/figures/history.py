"""Figures of a run over time: metrics against epochs or iterations, and numbers of single mini-batches.

``figures.gallery`` draws them. The figures of single mini-batches are those of R2, one of the course reports that
``digitlab reproduce`` repeats. The functions take plain tables and return a Matplotlib figure. One iteration is one
mini-batch; nll is the negative log-likelihood.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from digitlab.figures.style import BLUE, ORANGE, PURPLE, SPLIT_NAMES, SPLIT_STYLES, TEXT_COLOUR, panel_grid, styled

# The curve of one metric on one split: pairs of (epoch or iteration, value).
Curve = Sequence[tuple[float, float]]
# Curves keyed by the column names of ``metrics.csv``: ``train/loss``, ``val/accuracy``, ...
Curves = Mapping[str, Curve]

# The panels of ``history_figure``: metric and axis label.
_PANELS = {"loss": "loss", "accuracy": "accuracy in %", "f1": "F1 (macro) in %"}
_PANEL_INCHES = (3.0, 2.5)
# All three colours have the same lightness. The usual maps have a light end, which would vanish on white.
_EARLY_TO_LATE = LinearSegmentedColormap.from_list("early to late", [BLUE, PURPLE, ORANGE])
_MARKED_POINTS = 40  # more markers would cover the line


@styled
def history_figure(curves: Curves, *, x_label: str, best: float | None, title: str) -> Figure:
    """Draw loss, accuracy and F1 of training and validation, one panel each.

    A vertical line marks ``best``, the epoch or iteration of the best checkpoint (None: no line). Metrics that no split
    has get no panel. Accuracy and F1 are in [0, 1] and are drawn in per cent.
    """
    panels = [name for name in _PANELS if any(key.partition("/")[2] == name for key in curves)]
    figure, all_axes = _panels(len(panels), _PANEL_INCHES)
    figure.suptitle(title, x=0.01, ha="left")
    for name, axes in zip(panels, all_axes, strict=True):
        scale = 1 if name == "loss" else 100
        for split in SPLIT_STYLES:
            if points := curves.get(f"{split}/{name}"):
                _draw(axes, points, split, scale)
        if best is not None:
            axes.axvline(best, color=TEXT_COLOUR, linewidth=0.9, linestyle="-.", label=f"best ({best:,g})")
        axes.set_xlabel(x_label)
        axes.set_ylabel(_PANELS[name])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    # The legend of the first panel is enough: the others have the same kinds of lines, and a legend could cover them.
    all_axes[0].legend()
    return figure


def _draw(axes: Axes, points: Curve, split: str, scale: float) -> None:
    colour, line, marker = SPLIT_STYLES[split]
    x, y = zip(*points, strict=True)
    axes.plot(
        x, [scale * value for value in y], color=colour, linestyle=line,
        marker=marker if len(points) <= _MARKED_POINTS else None, label=SPLIT_NAMES[split],
    )  # fmt: skip


@styled
def nll_figure(nll: Tensor, *, mean_over: int, title: str) -> Figure:
    """Draw the negative log-likelihood of each mini-batch and its running mean over ``mean_over`` mini-batches.

    If there are fewer mini-batches, the mean is over all of them. ``nll`` is float (iterations,), the mean over each
    mini-batch, in nats.
    """
    figure, axes = _single_panel(title)
    steps = range(1, len(nll) + 1)
    axes.plot(steps, nll.numpy(), color=SPLIT_STYLES["train"][0], linewidth=0.5, alpha=0.6, label="a mini-batch")
    window = min(mean_over, len(nll))
    running_mean = nll.unfold(0, window, 1).mean(1)
    axes.plot(
        steps[len(nll) - len(running_mean) :],
        running_mean.numpy(),
        color=SPLIT_STYLES["val"][0],
        linewidth=1.6,
        label=f"mean of {window}",
    )
    axes.set_xlabel("iteration (mini-batch)")
    axes.set_ylabel("−log p(true class) in nats")
    axes.legend()
    return figure


@styled
def changed_weights_figure(nll: Tensor, changed: Tensor, *, parameters: int, title: str) -> Figure:
    """Draw the negative log-likelihood of each mini-batch against the number of weights that it changed.

    ``nll`` is float (iterations,), in nats. ``changed`` is int64 (iterations,): the number of non-zero entries in the
    gradient of all ``parameters`` weights, because gradient descent changes only these weights.
    """
    figure, axes = _single_panel(title)
    points = axes.scatter(
        changed.numpy(), nll.numpy(), s=5, c=range(1, len(nll) + 1), cmap=_EARLY_TO_LATE, alpha=0.7, linewidths=0
    )
    axes.set_xlabel(f"weights changed by the mini-batch (of {parameters:,})")
    axes.set_ylabel("−log p(true class) in nats")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(5))  # numbers of millions are wide
    figure.colorbar(points, ax=axes, label="iteration (mini-batch)").solids.set_alpha(1)  # type: ignore[union-attr]
    return figure


@styled
def batch_accuracy_figure(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, title: str) -> Figure:
    """Draw the number of correctly classified images of each mini-batch, in training and on the test set.

    ``train`` and ``test`` are pairs of tensors, int64 (iterations,): the number of correctly classified images of each
    mini-batch, and the number of all its images. Smaller mini-batches at the end of an epoch are left out, because
    fewer of their images can be correct. Empty tensors get no panel.
    """
    panels = {split: pair for split, pair in (("train", train), ("test", test)) if len(pair[0])}
    figure, all_axes = _panels(len(panels), (3.6, 2.8))
    figure.suptitle(title, x=0.01, ha="left")
    for (split, (correct, images)), axes in zip(panels.items(), all_axes, strict=True):
        batch_size = int(images.max())
        steps = (images == batch_size).nonzero().flatten()
        counts = correct[steps]
        mean = float(counts.double().mean())
        axes.plot(
            (steps + 1).numpy(), counts.numpy(), ".", color=SPLIT_STYLES[split][0], markersize=2, label="a mini-batch"
        )
        axes.axhline(mean, color=PURPLE, linestyle="--", label=f"mean {mean:.1f}")
        axes.set_title(SPLIT_NAMES[split])
        axes.set_xlabel("iteration (mini-batch)")
        axes.set_ylabel(f"correct predictions of {batch_size}")
        axes.set_ylim(0, 1.04 * batch_size)
        axes.legend(loc="lower right")
    return figure


def _panels(count: int, panel_inches: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Make a figure with ``count`` panels side by side, or below each other in a column of a paper."""
    rows, columns = panel_grid(count)
    figure = Figure(figsize=(panel_inches[0] * columns, panel_inches[1] * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _single_panel(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes
