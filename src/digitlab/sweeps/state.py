"""How the runs of a sweep stand: read from their folders, where each says it of itself. Nothing here imports torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, monitored
from digitlab.sweeps.manifest import Entry, Manifest


@dataclass(frozen=True, slots=True)
class SweepRun:
    """A run of a sweep; ``metric`` and ``value`` are the monitored ones at its best checkpoint, if it has finished."""

    entry: Entry
    folder: RunFolder
    status: str  # finished, stopped, failed or unfinished
    metric: str | None = None
    value: float | None = None
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float | None]:
        metrics: dict[str, float | None] = self.result.get("metrics", {})
        return {name: value for name, value in metrics.items() if "class_accuracy" not in name}


def read_runs(path: Path) -> list[SweepRun]:
    """All runs of the sweep in ``path``, in the order of their numbers. Raises what ``Manifest.read`` raises."""
    manifest = Manifest.read(path)
    return [read_run(manifest.folder(entry), entry) for entry in manifest.runs]


def read_run(folder: RunFolder, entry: Entry) -> SweepRun:
    """A run as it stands now: ``unfinished`` where it has no readable ``result.json`` yet."""
    try:
        result = folder.read_result()
        if result["status"] != "finished":
            return SweepRun(entry, folder, result["status"], error=result.get("error"), result=result)
        metric, value = monitored(folder, result)
    except UNREADABLE:
        return SweepRun(entry, folder, "unfinished")
    return SweepRun(entry, folder, "finished", metric=metric, value=value, result=result)
