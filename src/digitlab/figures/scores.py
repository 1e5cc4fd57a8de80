"""Figures of the predicted confidences: precision-recall curves, reliability diagram, accuracy of each class.

``figures.gallery`` draws them for a run.
``scores`` is float (N, K), the confidences in [0, 1] of N images for K classes; ``labels`` is int64 (N,).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.formatting import zoomed_label, zoomed_start
from digitlab.figures.style import BLUE, LINE_STYLES, ORANGE, TEXT_COLOUR, short, styled
from digitlab.training.evaluation import CALIBRATION_BINS

# The number of curves with a name and a colour, if there are more classes than line styles.
_MOST_NAMED_OF_MANY = 12
_OTHER_COLOUR = "#cccccc"  # curves without a name
_NORMAL_97_5 = 1.959964  # the 97.5 % quantile of the normal distribution


def precision_recall(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Return precision and recall, float64 (different scores,), at every threshold, from the highest to the lowest.

    ``scores`` is float (N,), ``positive`` bool (N,). Each different score is a threshold, and images with at least this
    score are predicted to be positive. So images with equal scores share one point.
    """
    # In the order of falling scores, the positive predictions at a threshold are the images up to a certain one.
    ranked = scores.sort(descending=True, stable=True)
    true_positives = positive[ranked.indices].cumsum(0).double()
    predicted_positives = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    last_of_equals = torch.ones(len(scores), dtype=torch.bool)
    last_of_equals[:-1] = ranked.values[1:] != ranked.values[:-1]
    precision, recall = true_positives / predicted_positives, true_positives / positive.sum().clamp(min=1)
    return precision[last_of_equals], recall[last_of_equals]


def average_precision(precision: Tensor, recall: Tensor) -> float:
    """Return the average precision: the sum of precision times the increase in recall, in [0, 1]."""
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())


@styled
def precision_recall_figure(scores: Tensor, labels: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw precision against recall, one-vs-rest, one curve for each class that occurs in ``labels``.

    If there are many classes, only those with the lowest average precision have colours and names; the others are grey.
    Both axes end at 100 %. They start above 0 if this still shows the bend of every curve; then their labels say so.
    """
    occurring = labels.unique().tolist()
    curves = {label: precision_recall(scores[:, label], labels == label) for label in occurring}
    average_precisions = {label: average_precision(*curve) for label, curve in curves.items()}
    many = len(occurring) > len(LINE_STYLES)
    lowest_first = sorted(average_precisions, key=average_precisions.__getitem__)
    named = sorted(lowest_first[:_MOST_NAMED_OF_MANY]) if many else occurring
    figure = Figure(figsize=(5.4, max(3.5, 0.19 * len(named) + 0.5)), layout="constrained")
    axes = figure.add_subplot()
    # The bend of a curve, near its upper right corner, is where the smaller of precision and recall is largest.
    bend_percent = min((100 * float(torch.minimum(*curve).max()) for curve in curves.values()), default=100.0)
    # The named curves come last, above the others.
    for label in [*(other for other in occurring if other not in named), *named]:
        precision, recall = curves[label]
        line: dict[str, Any] = {"color": _OTHER_COLOUR, "linewidth": 0.5}
        if label in named:
            colour, style = LINE_STYLES[named.index(label) if many else label % len(LINE_STYLES)]
            name = f"{short(class_names[label], 20)} ({average_precisions[label]:.3f})"
            line = {"color": colour, "linestyle": style, "linewidth": 1, "label": name}
        axes.plot((100 * recall).numpy(), (100 * precision).numpy(), **line)
    start = zoomed_start(bend_percent)
    margin = 0.02 * (100 - start)
    axes.set(xlim=(start, 100 + margin), ylim=(start, 100 + margin))
    axes.set_xlabel(zoomed_label("recall in %", start))
    axes.set_ylabel(zoomed_label("precision in %", start))
    axes.set_title(title)
    named_note = f"\nlowest {len(named)} of {len(occurring)}" if many else ""
    axes.legend(
        title=f"class (average precision){named_note}", loc="center left", bbox_to_anchor=(1.0, 0.5), title_fontsize=8
    )
    return figure


@styled
def reliability_figure(scores: Tensor, labels: Tensor, *, title: str) -> Figure:
    """Draw a reliability diagram (Guo et al., 2017): accuracy in equally wide bins of confidence, and their counts.

    Error bars are 95 % Wilson intervals of the accuracy: bins with few images have long ones.
    """
    confidence, predicted = scores.max(1)
    bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    counts = bins.bincount(minlength=CALIBRATION_BINS)
    hits = bins.bincount((predicted == labels).double(), minlength=CALIBRATION_BINS)
    confidence_sums = bins.bincount(confidence.double(), minlength=CALIBRATION_BINS)
    error = float((hits - confidence_sums).abs().sum() / len(labels))
    centres = (np.arange(CALIBRATION_BINS) + 0.5) * 100 / CALIBRATION_BINS
    width = 92 / CALIBRATION_BINS  # a bar fills 92 % of its bin
    accuracy, mean_confidence = (100 * hits / counts).numpy(), (100 * confidence_sums / counts).numpy()
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.bar(centres, accuracy, width, facecolor=to_rgba(BLUE, 0.35), edgecolor=BLUE, label="accuracy")
    low, high = wilson_interval(hits, counts)
    has_images = (counts > 0).numpy()
    error_bars = np.clip(np.stack([accuracy - 100 * low.numpy(), 100 * high.numpy() - accuracy]), 0, None)
    above.errorbar(
        mean_confidence[has_images], accuracy[has_images], error_bars[:, has_images], fmt="D", color=ORANGE,
        capsize=2, elinewidth=0.9, label="mean confidence, 95 % interval",
    )  # fmt: skip
    above.plot([0, 100], [0, 100], "--", color=TEXT_COLOUR, linewidth=1, label="perfectly calibrated")
    above.set_ylabel("accuracy in %")
    above.set_title(f"{title}\ncalibration error {100 * error:.1f} %")
    below.bar(centres, counts.numpy(), width, color=BLUE)
    below.set_yscale("symlog", linthresh=1)  # a logarithmic axis that also shows bins without images
    below.set_ylabel("images\n(logarithmic)")
    below.set_xlabel("confidence in %")
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, columnspacing=1)
    return figure


def wilson_interval(hits: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the 95 % interval of Wilson (1927) for the share of ``hits`` in ``counts``.

    ``hits``, ``counts`` and the ends have one value for each bin; the ends are float64 in [0, 1]. Unlike the usual
    interval, it has a width even if all or none are hits. If a count is 0, both ends are nan.
    """
    share, total = hits.double() / counts, counts.double()
    centre = (share + _NORMAL_97_5**2 / (2 * total)) / (1 + _NORMAL_97_5**2 / total)
    variance = share * (1 - share) / total + _NORMAL_97_5**2 / (4 * total**2)
    half_width = _NORMAL_97_5 * variance.sqrt() / (1 + _NORMAL_97_5**2 / total)
    return centre - half_width, centre + half_width


@styled
def class_accuracy_figure(confusion: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw the accuracy of each class in per cent; ``confusion`` is int64 (K, K), true class by predicted class.

    If all classes have a high accuracy, the axis starts above 0 to show the differences; the axis label says so.
    """
    percent = (100 * confusion.diagonal() / confusion.sum(1).clamp(min=1)).tolist()
    start = zoomed_start(min(percent))
    figure = Figure(figsize=(5.0, 0.5 + 0.24 * len(class_names) + 0.4), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(class_names))
    axes.barh(rows, percent, facecolor=to_rgba(BLUE, 0.35), edgecolor=BLUE, height=0.7)
    end = 100 + 0.12 * (100 - start)  # the numbers are at the right end, beyond 100 %
    for row, value in zip(rows, percent, strict=True):
        axes.text(end, row, f"{value:.1f}", ha="right", va="center_baseline", fontsize=7)
    all_classes_percent = 100 * float(confusion.diagonal().sum() / confusion.sum().clamp(min=1))
    axes.axvline(all_classes_percent, color=ORANGE, linestyle="--")
    axes.set_yticks(rows, [short(name, 14) for name in class_names])
    axes.set_ylim(len(class_names) - 0.4, -0.6)
    axes.set_xlim(start, end)
    axes.set_xlabel(zoomed_label("accuracy in %", start))
    axes.set_ylabel("true class")
    axes.set_title(f"{title}\ndashed: all classes, {all_classes_percent:.1f} %")
    axes.grid(visible=False, axis="y")
    return figure
