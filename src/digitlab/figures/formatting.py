"""Number formats and axis limits for figures, pages and the command line. Imports neither torch nor Matplotlib."""

from collections.abc import Sequence

# Numbers that span more than this factor lie on a logarithmic axis.
_LOG_RATIO = 20
_MOST_DECIMALS = 4
# Metrics in [0, 1] that figures and pages show in per cent.
_PER_CENT_METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_weighted", "calibration_error")


def needs_log_scale(numbers: Sequence[float]) -> bool:
    """Return whether all numbers are positive and span so much that they are compared by their logarithms."""
    return min(numbers) > 0 and max(numbers) > _LOG_RATIO * min(numbers)


def is_percentage(metric: str) -> bool:
    """Return whether figures and pages show ``metric`` (``val/accuracy``, ``test accuracy``, …) in per cent."""
    name = metric.replace(" ", "/").rpartition("/")[2]
    return name in _PER_CENT_METRICS or name.startswith("class_accuracy")


def metric_scale(metric: str) -> tuple[float, str]:
    """Return the factor by which a figure multiplies ``metric``, and the axis label: (100, ``val/accuracy in %``)."""
    return (100.0, f"{metric} in %") if is_percentage(metric) else (1.0, metric)


def format_mean(mean: float, sd: float | None, *, percent: bool) -> str:
    """Return ``97.12 ± 0.10``, mean ± standard deviation, in per cent or with four decimals; ``sd`` may be None."""
    factor, digits = (100, 2) if percent else (1, 4)
    return " ± ".join(f"{factor * value:.{digits}f}" for value in (mean, sd) if value is not None)


def format_confidence(confidence: float) -> str:
    """Format a confidence in [0, 1] in per cent, with enough digits that the text is not 100 %: ``99.997 %``.

    There are at most four decimals; higher values become ``> 99.9999 %``. More decimals would show little more than the
    rounding errors of float32.
    """
    for decimals in range(1, _MOST_DECIMALS + 1):
        text = f"{100 * confidence:.{decimals}f}"
        if float(text) < 100:
            return f"{text} %"
    return f"> {100 - 10.0**-_MOST_DECIMALS:.{_MOST_DECIMALS}f} %"


def zoomed_start(lowest_percent: float) -> float:
    """Return the start of an axis that ends at 100 % so that ``lowest_percent`` lies near its middle or above it.

    The start is a round number, or 0 if the values need most of the axis.
    """
    # The lowest value is in the middle of an axis that is twice as long as its distance to 100 %.
    needed = 2 * (100 - lowest_percent)
    lengths = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
    return next((100 - length for length in lengths if needed <= length), 0.0)


def zoomed_label(label: str, start: float) -> str:
    """Add a note to an axis label if the axis does not start at 0."""
    return f"{label} (axis starts at {start:g} %)" if start else label
