"""``Sweep``: a sweep's runs and tables as a Python object. ``digitlab.sweep`` and ``digitlab.open`` return it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digitlab.api import html
from digitlab.api.arguments import explain_unknown_arguments, given_path
from digitlab.api.frames import to_frame
from digitlab.api.run import Run
from digitlab.core.errors import ConfigError
from digitlab.sweeps.effects import ValueEffect
from digitlab.sweeps.state import SweepRun, read_runs
from digitlab.sweeps.table import SweepTable

if TYPE_CHECKING:
    from digitlab.api.comparisons import Comparisons

_SHOWN_ROWS = 20  # A notebook shows at most this many settings.


class Sweep:
    """One sweep, read from its folder when the object is made.

    A setting is a combination of values of the swept keys. Runs of one setting differ only in the seed, the fold or the
    split seed.
    Raises ``ConfigError`` or ``RunError`` if ``folder`` is not the folder of a sweep.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = given_path(folder).resolve()
        try:
            self._runs = read_runs(self.path)
        except ConfigError as error:
            raise ConfigError("folder", folder, error.allowed) from error

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
        """One row per run, with the values of the keys on the command line, its status and its metrics."""
        return to_frame([self._row(run) for run in self._runs])

    def _row(self, run: SweepRun) -> dict[str, Any]:
        settings = self._table.values[run.entry.number]
        run_columns = {"run": run.entry.folder, "status": run.status, "checkpoint": run.tested_checkpoint}
        return settings | run_columns | {"epoch": run.tested_epoch} | run.metrics

    @property
    def effects(self) -> dict[str, Any]:
        """For each swept key except seeds and folds, a table: the effect of each value on the monitored metric.

        A row has the mean, the standard deviation and the number of the runs with one value. ``reference`` is True for
        the best value. For the others, ``difference`` is this value minus the best one: the mean over ``pairs`` of runs
        that differ in this key alone. Its 95 % interval goes from ``low`` to ``high``. If the values are many numbers,
        as after a search, a row is about a range of them; then ``runs`` counts settings, and there are no differences.
        """
        return {key: to_frame([_effect_row(each) for each in effects]) for key, effects in self._table.effects.items()}

    @property
    def best(self) -> Run | None:
        """The best run of the best setting by the monitored metric, not the test set; None if none has finished."""
        winner = self._table.winner
        return None if winner is None else Run(winner.folder.path)

    @explain_unknown_arguments("Sweep.compare")
    def compare(
        self, key: str | None = None, *, metric: str | None = None, where: Sequence[str] | Mapping[str, Any] = ()
    ) -> "Comparisons":
        """Compare the values of a swept key with statistics, as ``digitlab compare FOLDER --key KEY`` does.

        ``key`` may be left out if only one was swept, besides seeds and folds. ``metric`` is by default the monitored
        one. ``where`` keeps the runs with these settings: ``where={"optimizer": "adam"}``, or as texts,
        ``where=["optimizer=adam"]``. Raises ``ConfigError`` if the runs can't be compared.
        """
        from digitlab.api.comparisons import Comparisons

        keys = list(self._table.effects)
        if key is None and len(keys) != 1:
            raise ConfigError("key", None, f"choose one of the swept keys: {', '.join(keys) or 'there is none'}")
        return Comparisons([self.path], key=key or keys[0], metric=metric, where=where)

    def __repr__(self) -> str:
        finished = sum(run.status == "finished" for run in self._runs)
        return f"<Sweep {self.path.name}: {finished} of {len(self._runs)} runs finished>"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the settings from best to worst, the effect of each value, the failed runs."""
        from digitlab.sweeps.report import EFFECTS_TITLE, effects_table, settings_table, settings_words

        finished = sum(run.status == "finished" for run in self._runs)
        status = f"{finished} of {len(self._runs)} runs finished"
        parts = [html.heading(self.path.name, status, self.path)]
        # One table for each data set, because values on different data sets can't be ranked.
        for part in self._table.by_data_set():
            columns, rows = settings_table(part)
            parts.append(html.table(columns, rows[:_SHOWN_ROWS], words=settings_words(part)))
            if len(rows) > _SHOWN_ROWS:
                parts.append(f"<div>the best {_SHOWN_ROWS} of {len(rows)} settings</div>")
            if any(part.effects.values()):
                parts.append(html.details(EFFECTS_TITLE, html.table(*effects_table(part), words=2)))
        if self.failures:
            rows = [[name, error] for name, error in self.failures.items()]
            parts.append(html.table(["failed run", "error"], rows, words=2))
        return "".join(parts)


def _effect_row(effect: ValueEffect) -> dict[str, Any]:
    difference = effect.difference
    interval = None if difference is None else difference.interval
    low, high = (None, None) if interval is None else interval
    return {
        # A bin of numbers has no single value, only a label.
        "value": effect.label if effect.value is None else effect.value,
        "mean": effect.summary.mean, "sd": effect.summary.sd, "runs": effect.summary.count,
        "reference": effect.is_reference,
        "difference": None if difference is None else difference.mean, "low": low, "high": high,
        "pairs": 0 if difference is None else difference.count,
    }  # fmt: skip
