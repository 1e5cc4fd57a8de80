"""The figures that show a whole sweep: parallel coordinates, importance of keys, contours, learning curve, range test.

``sweeps.gallery`` saves them, and the report of a sweep shows them. ``digitlab.figures`` draws; this module only
collects the numbers.
"""

from collections.abc import Iterator

from matplotlib.figure import Figure

from digitlab.config.values import Value
from digitlab.core.errors import show
from digitlab.figures.analysis import (
    CurvePoint,
    Point,
    RateCurve,
    can_be_contoured,
    contour_figure,
    importance_figure,
    learning_curve_figure,
    rate_figure,
)
from digitlab.figures.sweeps import parallel_figure
from digitlab.sweeps.effects import in_order, is_number
from digitlab.sweeps.importance import Importances
from digitlab.sweeps.rate_test import RateTest, rate_tests
from digitlab.sweeps.statistics import Summary
from digitlab.sweeps.table import SweepTable

_TRAIN_SIZE = "data.train_size"
# More lines in the figure of learning curves are hard to tell apart.
_MAX_CURVES = 6


def summary_figures(table: SweepTable, importances: Importances | None) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the drawing of each figure that makes sense for the sweep.

    ``importances`` says how much each key matters, if that was computed. At least one run must have finished.
    """
    assert table.metric is not None
    if len(table.keys) > 1:
        yield "settings", _parallel(table, table.metric)
    if importances is not None:
        keys = [(each.key, each.share, each.interval) for each in importances.keys]
        yield (
            "importance",
            importance_figure(keys, metric=table.metric, method=importances.method, left_out=importances.left_out),
        )
    if (contour := _contour(table, table.metric, importances)) is not None:
        yield contour
    if curves := _learning_curves(table):
        yield "learning_curve", learning_curve_figure(curves[:_MAX_CURVES], metric=table.metric)
    if tests := [test for test in rate_tests(table) if any(loss is not None for loss in test.losses)]:
        yield "learning_rate_range", rate_figure([_rate_curve(test) for test in tests])


def _parallel(table: SweepTable, metric: str) -> Figure:
    """Return parallel coordinates: an axis for each key, and a line through the values of each setting."""
    finished = [(row.setting, row.summary.mean) for row in table.rows if row.summary is not None]
    # A setting whose runs have all failed has no value, but the figure shows that it was tried.
    failed = {row.setting: row.failed for row in table.rows if row.failed}
    tried = dict.fromkeys([*(setting for setting, _ in finished), *failed])
    values = [in_order(setting[index] for setting in tried) for index in range(len(table.keys))]
    return parallel_figure(finished, keys=table.keys, metric=metric, values=values, failed=failed)


def _contour(table: SweepTable, metric: str, importances: Importances | None) -> tuple[str, Figure] | None:
    """Return the contours over the two most important numeric keys; without importances, over the first two.

    Return None if there are no two numeric keys, or if their values don't cover an area.
    """
    order = table.keys if importances is None else [each.key for each in importances.keys]
    # The axes need numbers, so a key can't be used if its value is a word in any run.
    numeric = [key for key in order if all(is_number(table.values[run.entry.number][key]) for run in table.runs)]
    if len(numeric) < 2:
        return None
    keys = numeric[0], numeric[1]
    points = []
    for (x, y), (measured, failed) in pair_groups(table, *keys).items():
        assert is_number(x)
        assert is_number(y)
        if measured or failed:
            points.append(Point(float(x), float(y), Summary.of(measured).mean if measured else None, failed))
    if not can_be_contoured(points):
        return None
    others = [key for key in table.keys if key not in keys]
    return f"contours_{keys[0]}_and_{keys[1]}", contour_figure(points, keys=keys, metric=metric, others=others)


def pair_groups(table: SweepTable, one: str, other: str) -> dict[tuple[Value, Value], tuple[list[float], int]]:
    """Return the monitored values of the finished runs and the number of failed runs, by the values of two keys."""
    groups: dict[tuple[Value, Value], tuple[list[float], int]] = {}
    for run in table.runs:
        values = table.values[run.entry.number]
        pair = values[one], values[other]
        measured, failed = groups.get(pair, ([], 0))
        groups[pair] = [*measured, *table.compared([run])], failed + (run.status == "failed")
    return groups


def _learning_curves(table: SweepTable) -> list[tuple[str, list[CurvePoint]]]:
    """Return a curve over the number of training images for each setting of the other keys.

    Return an empty list if the sweep does not vary the number of training images.
    """
    if _TRAIN_SIZE not in table.keys:
        return []
    curves: dict[str, list[CurvePoint]] = {}
    for row in table.rows:
        values = dict(zip(table.keys, row.setting, strict=True))
        size = values.pop(_TRAIN_SIZE)
        if row.summary is not None and is_number(size):
            name = ", ".join(f"{key}={show(value)}" for key, value in values.items())
            curve = curves.setdefault(name, [])
            curve.append(CurvePoint(float(size), row.summary.mean, row.summary.sd, row.summary.count))
    ordered = [(name, sorted(points, key=lambda point: point.size)) for name, points in curves.items()]
    # At least two points make a curve.
    return [(name, points) for name, points in ordered if len(points) > 1]


def _rate_curve(test: RateTest) -> RateCurve:
    return RateCurve(name=test.name, rates=test.rates, losses=test.losses, useful=test.useful, suggested=test.suggested)
