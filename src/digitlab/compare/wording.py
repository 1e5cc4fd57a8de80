"""Writes the results of comparisons as text: one sentence for each, and a table of all.

``digitlab compare``, the report of a sweep and the Python API use it.
"""

from collections.abc import Sequence

from digitlab.compare.comparison import SIGNIFICANT, Comparison
from digitlab.compare.statistics import detectable_difference
from digitlab.config.metrics import metric_direction
from digitlab.figures.formatting import is_percentage

# With fewer pairs, or without a significant difference, the sentence says how large a difference could be shown.
_FEW_PAIRS = 5
# Smaller p-values are shown as "< 0.0001".
_SMALLEST_P = 1e-4


def sentence(comparison: Comparison) -> str:
    """Return the result in plain English, with interval, number of pairs and p-value.

    If there are few pairs or the difference is not significant, the sentence also says which difference the runs could
    have shown.
    """
    difference, metric = comparison.difference, comparison.metric
    text = f"{comparison.first} is {_amount(abs(difference.mean), metric)} better than {comparison.second}"
    if difference.mean == 0:
        text = f"{comparison.first} and {comparison.second} are equally good"
    if difference.interval is None or comparison.corrected_p_value is None:
        return (
            f"{text} in {metric}: one run each, which says nothing about other seeds; repeat both with at least 5 seeds"
        )
    if not comparison.significant:
        text = f"No difference shown between {comparison.first} and {comparison.second}: "
        text += _amount(_improvement(difference.mean, metric), metric, sign="+")
    low, high = sorted(_improvement(bound, metric) for bound in difference.interval)
    pairs = f"{difference.count} pairs" if difference.paired else f"at least {difference.count} runs each, unpaired"
    p_value = p_text(comparison.corrected_p_value)
    p_value = f"p {p_value}" if p_value.startswith("<") else f"p = {p_value}"
    if comparison.tests > 1:
        p_value += f" after correction for {comparison.tests} comparisons"
    interval = f"95 % CI {_number(low, metric)} to {_number(high, metric)}"
    return f"{text} in {metric} ({interval}, {pairs}, {p_value}){_detectable_text(comparison)}"


def _detectable_text(comparison: Comparison) -> str:
    """Return which difference the runs, and four times as many, could show; empty if that adds nothing."""
    difference, metric = comparison.difference, comparison.metric
    if (comparison.significant and difference.count >= _FEW_PAIRS) or not difference.sd:
        return ""
    # Four times as many runs show about half the difference.
    counts = (difference.count, 4 * difference.count)
    # The smallest p-value of several comparisons must be below this level to be significant after Holm's correction.
    level = SIGNIFICANT / comparison.tests
    now, later = (
        detectable_difference(count, difference.sd, paired=difference.paired, level=level) for count in counts
    )
    unit = "pairs" if difference.paired else "runs each"
    # Two shares of images differ by at most 1, so no difference is large enough.
    least = "any difference" if is_percentage(metric) and now > 1 else f"less than {_amount(now, metric)}"
    more = "" if is_percentage(metric) and later > 1 else f"; {counts[1]} could show {_amount(later, metric)}"
    return f". {counts[0]} {unit} usually can't show {least}{more}"


def _improvement(value: float, metric: str) -> float:
    """Return a difference with the sign that makes it positive if the first group is better."""
    return -value if metric_direction(metric) == "min" else value


def _number(value: float, metric: str, *, sign: str = "") -> str:
    """Write a percentage in points with two decimals, and any other value with two or three digits."""
    if is_percentage(metric):
        text = format(100 * value, f"{sign}.2f")
    else:
        text = format(value, f"{sign}.3g" if abs(value) >= 1e-3 else f"{sign}.2g")
    # A value that is rounded to zero gets no sign.
    return text.lstrip("+-") if float(text) == 0 else text


def _amount(value: float, metric: str, *, sign: str = "") -> str:
    """Write a value with its unit."""
    return _number(value, metric, sign=sign) + (" points" if is_percentage(metric) else "")


def test_set_warning(metric: str) -> str:
    """A warning if ``metric`` is measured on the test set, otherwise an empty text."""
    return "on the test set: do not choose settings by it" if metric.startswith("test/") else ""


def p_text(p_value: float) -> str:
    """Write a p-value with two digits, or ``< 0.0001``."""
    if p_value < _SMALLEST_P:
        return f"< {_SMALLEST_P:.4f}"
    # The third decimal shows on which side of the level 0.05 a value lies.
    return f"{p_value:.4f}" if p_value < 0.01 else f"{p_value:.2f}" if p_value > 0.055 else f"{p_value:.3f}"


def comparison_table(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Return column names and one row of text for each comparison; ``difference`` is ``better`` minus ``other``.

    The columns of the bootstrap and of the permutation test are left out if no comparison has them.
    """
    metric = comparisons[0].metric
    unit = " in points" if is_percentage(metric) else ""
    columns = ["better", "other", f"difference{unit}", "95 % interval", "bootstrap", "pairs", "p", "permutation p", "d"]
    rows = [_cells(comparison) for comparison in comparisons]
    resampled = any(comparison.difference.bootstrap_interval is not None for comparison in comparisons)
    indices = [index for index, name in enumerate(columns) if resampled or name not in ("bootstrap", "permutation p")]
    return [columns[index] for index in indices], [[row[index] for index in indices] for row in rows]


def _cells(comparison: Comparison) -> list[str]:
    """Return the cells of a row, for all columns of ``comparison_table``."""
    difference, metric = comparison.difference, comparison.metric
    bounds = [
        "" if bound is None else f"{_number(bound[0], metric, sign='+')} to {_number(bound[1], metric, sign='+')}"
        for bound in (difference.interval, difference.bootstrap_interval)
    ]
    p_values = [
        "" if p_value is None else p_text(p_value)
        for p_value in (comparison.corrected_p_value, difference.permutation_p_value)
    ]
    effect = "" if difference.effect_size is None else f"{difference.effect_size:+.2f}"
    mean = _number(difference.mean, metric, sign="+")
    pairs = str(difference.count) if difference.paired else "none"
    return [comparison.first, comparison.second, mean, *bounds, pairs, *p_values, effect]
