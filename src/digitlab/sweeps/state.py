"""Reads the state of each run of a sweep from the run folders. Nothing here imports torch.

The table, the progress line and the reports of a sweep use it. The manifest, a file in the sweep's folder, only lists
the runs; a run's own folder says how far it has trained.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digitlab.core.errors import DIVERGED
from digitlab.results.checkpoint_name import CheckpointName
from digitlab.results.data_set import data_set_name, read_data_set_name
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, monitored, unreadable_reason
from digitlab.sweeps.manifest import Entry, Manifest


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep.

    ``status`` is ``finished``, ``stopped``, ``failed`` or ``unfinished``. ``metric`` and ``value`` are the monitored
    metric and its value at the tested checkpoint; both are None unless the run has finished. ``result`` is the content
    of ``result.json``.
    """

    entry: Entry
    folder: RunFolder
    status: str
    metric: str | None = None
    value: float | None = None
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether the run failed because its loss, gradient or weights were not finite: a result of its settings."""
        return self.status == "failed" and (self.error or "").endswith(DIVERGED)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of the tested checkpoint, without those of single classes."""
        metrics: dict[str, float | None] = self.result.get("metrics", {})
        # In every table, one column for each class would make the other columns hard to find.
        return {name: value for name, value in metrics.items() if "class_accuracy" not in name}

    @property
    def tested_checkpoint(self) -> CheckpointName | None:
        """Which checkpoint ``metrics`` belong to, ``best`` or ``last``; None if an older version wrote the result."""
        name: CheckpointName | None = self._tested("checkpoint")
        return name

    @property
    def tested_epoch(self) -> int | None:
        """The epoch of the tested checkpoint; None if it is not known."""
        epoch: int | None = self._tested("epoch")
        return epoch

    def _tested(self, name: str) -> Any:
        tested = self.result.get("tested")
        return tested.get(name) if isinstance(tested, dict) else None

    @property
    def checkpoint_text(self) -> str:
        """The tested checkpoint in words, such as ``best checkpoint, epoch 4``."""
        if self.tested_checkpoint is None:
            return "checkpoint unknown"
        epoch = "unknown" if self.tested_epoch is None else str(self.tested_epoch)
        return f"{self.tested_checkpoint} checkpoint, epoch {epoch}"

    def read_data_set(self) -> str | None:
        """Return the name of the data set (see ``results.data_set``); None if the run has not started."""
        try:
            name = read_data_set_name(self.folder)
            if name:
                return name
            # A run of an older version does not store its chosen options, but its configuration names the class.
            data = self.folder.read_plain_config()["data"]
            return data_set_name(str(data.get("source", data)["_target_"]).rpartition(".")[2], data)
        except UNREADABLE:
            return None


def read_runs(path: Path) -> list[SweepRun]:
    """Return all runs of the sweep in ``path``, ordered by number. Raises what ``Manifest.read`` raises."""
    manifest = Manifest.read(path)
    return [read_run(manifest.folder(entry), entry) for entry in manifest.runs]


def read_run(folder: RunFolder, entry: Entry) -> SweepRun:
    """Return the current state of one run; its status is ``unfinished`` if it has no readable ``result.json``.

    If that file exists, the reason is in ``error``. If a file is in the place of the folder, no command can resume the
    run, so it has failed.
    """
    try:
        result = folder.read_result()
        # A run that has not finished gets no value, so that tables do not rank it. ``result`` has its metrics.
        if result["status"] != "finished":
            return SweepRun(entry, folder, result["status"], error=result.get("error"), result=result)
        metric, value = monitored(folder, result)
    except NotADirectoryError:
        return SweepRun(entry, folder, "failed", error=f"{folder.path} is a file where a folder is needed")
    except UNREADABLE as error:
        # The run has not ended, or its files were damaged since then. In both cases, the same command resumes it.
        reason = unreadable_reason(error) if folder.result.exists() else None
        return SweepRun(entry, folder, "unfinished", error=reason)
    return SweepRun(entry, folder, "finished", metric=metric, value=value, result=result)
