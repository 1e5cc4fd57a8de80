"""``Sweep``: a sweep's runs and tables as a Python object. ``digitlab.sweep`` and ``digitlab.open`` return it."""

import html
from functools import cached_property
from pathlib import Path
from typing import Any

from digitlab.api.frames import to_frame
from digitlab.api.run import Run
from digitlab.sweeps.state import SweepRun, read_runs
from digitlab.sweeps.table import SweepTable


class Sweep:
    """One sweep, read from its folder when the object is made.

    Raises ``ConfigError`` or ``RunError`` if ``folder`` is not the folder of a sweep.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder).expanduser().resolve()
        self._runs = read_runs(self.path)

    @property
    def runs(self) -> list[Run]:
        """The runs that have begun, in the order of their numbers."""
        return [Run(run.folder.path) for run in self._runs if run.folder.config.exists()]

    @property
    def failures(self) -> dict[str, str]:
        """The error of each failed run, by the name of its folder."""
        return {run.entry.folder: run.error or "unknown" for run in self._runs if run.status == "failed"}

    @cached_property
    def _table(self) -> SweepTable:
        return SweepTable(self.path.name, self._runs)

    @property
    def table(self) -> Any:
        """One row per run, with its settings, status, monitored value and metrics: a data frame or a list of dicts."""
        return to_frame([self._row(run) for run in self._runs])

    def _row(self, run: SweepRun) -> dict[str, Any]:
        settings = self._table.values[run.entry.number]
        facts = {"run": run.entry.folder, "status": run.status, "checkpoint": run.tested_checkpoint}
        return settings | facts | {"epoch": run.tested_epoch} | run.metrics

    @property
    def effects(self) -> dict[str, Any]:
        """For each swept key, the effect of each value on the monitored metric, as a data frame or a list of dicts."""
        from dataclasses import asdict

        return {key: to_frame([asdict(effect) for effect in effects]) for key, effects in self._table.effects.items()}

    @property
    def best(self) -> Run | None:
        """The best run of the best setting by the monitored metric, not the test set; None if none has finished."""
        winner = self._table.winner
        return None if winner is None else Run(winner.folder.path)

    def __repr__(self) -> str:
        finished = sum(run.status == "finished" for run in self._runs)
        return f"<Sweep {self.path.name}: {finished} of {len(self._runs)} runs finished>"

    def _repr_html_(self) -> str:
        """What notebooks show: the name of the sweep and its table."""
        table = self.table
        shown = table._repr_html_() if hasattr(table, "_repr_html_") else f"<pre>{html.escape(str(table))}</pre>"
        return f"<b>{html.escape(repr(self))}</b>{shown}"
