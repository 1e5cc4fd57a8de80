"""Shortens curves and epochs to what the page of ``digitlab watch`` needs. ``run`` and ``laboratory`` use it."""

import math

from digitlab.results.history import EpochRow


def thinned(points: list[tuple[int, float]], max_points: int) -> list[tuple[int, float]]:
    """Return a curve with at most ``max_points`` of its ``points`` (x, y).

    If there are more, each group of neighbours becomes one point with the mean y, and with the x of the last of them.
    """
    size = math.ceil(len(points) / max_points)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def row_record(row: EpochRow) -> dict[str, float]:
    """Return the metrics of an epoch as plain values for the page."""
    return {"epoch": row.epoch, "step": row.step} | dict(row.values)
