"""Says the result of comparisons: one sentence each, and a table. ``digitlab compare`` and the report print both."""

from collections.abc import Sequence

from digitlab.compare.comparison import SIGNIFICANT, Comparison
from digitlab.compare.statistics import detectable_difference
from digitlab.config.metrics import metric_direction
from digitlab.figures.formatting import is_percentage

# With fewer pairs, or without a significant difference, the sentence says what could have been shown.
_FEW_PAIRS = 5
_SMALLEST_P = 1e-4


def sentence(comparison: Comparison) -> str:
    """The result in plain English, with interval, number of pairs and p-value.

    Too few pairs, or a difference that is not significant, add what could have been shown.
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
        text += _amount(_better(difference.mean, metric), metric, sign="+")
    low, high = sorted(_better(bound, metric) for bound in difference.interval)
    pairs = f"{difference.count} pairs" if difference.paired else f"at least {difference.count} runs each, unpaired"
    p_value = p_text(comparison.corrected_p_value)
    p_value = f"p {p_value}" if p_value.startswith("<") else f"p = {p_value}"
    if comparison.tests > 1:
        p_value += f" after correction for {comparison.tests} comparisons"
    interval = f"95 % CI {_number(low, metric)} to {_number(high, metric)}"
    return f"{text} in {metric} ({interval}, {pairs}, {p_value}){_could_show(comparison)}"


def _could_show(comparison: Comparison) -> str:
    difference, metric = comparison.difference, comparison.metric
    if (comparison.significant and difference.count >= _FEW_PAIRS) or not difference.sd:
        return ""
    counts = (difference.count, 4 * difference.count)
    # The smallest p-value of several comparisons must be below this level to be significant after Holm's correction.
    level = SIGNIFICANT / comparison.tests
    now, later = (
        _amount(detectable_difference(count, difference.sd, paired=difference.paired, level=level), metric)
        for count in counts
    )
    what = "pairs" if difference.paired else "runs each"
    return f". {counts[0]} {what} usually can't show less than {now}; {counts[1]} could show {later}"


def _better(value: float, metric: str) -> float:
    """Positive if the first group is better, whatever the direction of the metric."""
    return -value if metric_direction(metric) == "min" else value


def _number(value: float, metric: str, *, sign: str = "") -> str:
    """Percentages as points with two decimals, everything else with three digits."""
    if is_percentage(metric):
        text = format(100 * value, f"{sign}.2f")
    else:
        text = format(value, f"{sign}.3g" if abs(value) >= 1e-3 else f"{sign}.2g")
    # A rounded zero has no sign.
    return text.lstrip("+-") if float(text) == 0 else text


def _amount(value: float, metric: str, *, sign: str = "") -> str:
    return _number(value, metric, sign=sign) + (" points" if is_percentage(metric) else "")


def p_text(p_value: float) -> str:
    """A p-value with two digits, ``< 0.0001`` below that."""
    if p_value < _SMALLEST_P:
        return f"< {_SMALLEST_P:.4f}"
    return f"{p_value:.4f}" if p_value < 0.01 else f"{p_value:.2f}" if p_value > 0.055 else f"{p_value:.3f}"


def comparison_table(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Column names and one row of text for each comparison; the difference is that of ``better`` minus ``other``.

    Columns of resampling are left out if no comparison has it.
    """
    metric = comparisons[0].metric
    unit = " in points" if is_percentage(metric) else ""
    columns = ["better", "other", f"difference{unit}", "95 % interval", "bootstrap", "pairs", "p", "permutation p", "d"]
    rows = [_cells(comparison) for comparison in comparisons]
    resampled = any(each.difference.bootstrap_interval is not None for each in comparisons)
    kept = [place for place, name in enumerate(columns) if resampled or name not in ("bootstrap", "permutation p")]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _cells(comparison: Comparison) -> list[str]:
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
