"""Number formats and axis limits that figures, pages and the command line share. Needs neither torch nor Matplotlib."""

_MOST_DECIMALS = 4
# Metrics in [0, 1] that figures and pages show in per cent.
_PER_CENT_METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_weighted", "calibration_error")


def is_percentage(metric: str) -> bool:
    """Return whether figures and pages show ``metric`` (``val/accuracy``, ``test accuracy``, …) in per cent."""
    name = metric.replace(" ", "/").rpartition("/")[2]
    return name in _PER_CENT_METRICS or name.startswith("class_accuracy")


def metric_scale(metric: str) -> tuple[float, str]:
    """Return the factor by which a figure multiplies ``metric``, and the axis label: (100, ``val/accuracy in %``)."""
    return (100.0, f"{metric} in %") if is_percentage(metric) else (1.0, metric)


def format_confidence(confidence: float) -> str:
    """Format a confidence in [0, 1] in per cent with enough digits to differ from 100 %: ``98.1 %``, ``99.997 %``.

    Values above 99.9999 % become ``> 99.9999 %``, because float32 has no more digits there.
    """
    for decimals in range(1, _MOST_DECIMALS + 1):
        text = f"{100 * confidence:.{decimals}f}"
        if float(text) < 100:
            return f"{text} %"
    return f"> {100 - 10.0**-_MOST_DECIMALS:.{_MOST_DECIMALS}f} %"


def zoomed_start(lowest_percent: float) -> float:
    """Return the start of an axis that ends at 100 % so that ``lowest_percent`` lies near its middle.

    The start is a round number, or 0 if the values need most of the axis.
    """
    room = 2 * (100 - lowest_percent)
    steps = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
    return next((100 - step for step in steps if room <= step), 0.0)


def zoomed_label(label: str, start: float) -> str:
    """Add a note to an axis label if the axis does not start at 0."""
    return f"{label} (axis starts at {start:g} %)" if start else label
