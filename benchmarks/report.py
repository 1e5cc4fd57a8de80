"""What the benchmark measured: the bar that digitlab is held to, the table, and the JSON file that is kept."""

import json
import re
import statistics
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from digitlab.results import environment
from peers import PEERS
from workloads import Workload

BAR = 1.10
BARE, DIGITLAB = "bare loop", "digitlab"


@dataclass(slots=True, kw_only=True)
class Measurement:
    """One workload: for each row of its table the seconds of every epoch, a list a round, or why it has none."""

    workload: Workload
    images: int
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, epoch_seconds: list[float]) -> None:
        self.rounds.setdefault(row, []).append(epoch_seconds)

    def epochs(self, row: str) -> list[float]:
        """Seconds of every epoch, of all rounds."""
        return [seconds for epochs in self.rounds[row] for seconds in epochs]

    def median(self, row: str) -> float:
        """Seconds of the median epoch."""
        return statistics.median(self.epochs(row))

    def ratio(self, row: str) -> float:
        """The median over that of the bare loop: what the bar is about."""
        return self.median(row) / self.median(BARE)

    @property
    def ratios_by_round(self) -> list[float]:
        """digitlab over the bare loop for each round by itself, for how far noise moves the ratio."""
        pairs = zip(self.rounds[DIGITLAB], self.rounds[BARE], strict=True)
        return [statistics.median(ours) / statistics.median(bare) for ours, bare in pairs]

    @property
    def passed(self) -> bool:
        return self.ratio(DIGITLAB) <= BAR

    def as_dict(self) -> dict[str, Any]:
        return {
            "workload": self.workload.key,
            "title": self.workload.title,
            "overrides": self.workload.overrides(),
            "images": self.images,
            "ratio": self.ratio(DIGITLAB),
            "ratios_by_round": self.ratios_by_round,
            "passed": self.passed,
            "rows": {
                row: {"median_seconds": self.median(row), "min_seconds": min(self.epochs(row)), "epoch_seconds": rounds}
                for row, rounds in self.rounds.items()
            },
            "skipped": self.skipped,
        }


def show(measurements: list[Measurement]) -> None:
    """Print the table: a line a row of each workload."""
    table = Table(title=f"Training part of an epoch; bar: digitlab ≤ {BAR:.2f} × bare loop, by medians")
    for name in ("workload", "row"):
        table.add_column(name)
    for name in ("epochs", "median ms", "min ms", "images/s", "× bare", "by round", "bar"):
        table.add_column(name, justify="right", no_wrap=True)
    for measurement in measurements:
        for row in measurement.rounds:
            table.add_row(*_cells(measurement, row))
        for row, reason in measurement.skipped.items():
            table.add_row("", row, "", "", "", "", "", reason)
        table.add_section()
    # Without a terminal there is no width to keep to.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _cells(measurement: Measurement, row: str) -> list[str]:
    median = measurement.median(row)
    title = f"({measurement.workload.key}) {measurement.workload.title}" if row == BARE else ""
    by_round, verdict = "", ""
    if row == DIGITLAB:
        by_round = f"{min(measurement.ratios_by_round):.2f} … {max(measurement.ratios_by_round):.2f}"
        verdict = "held" if measurement.passed else "missed"
    return [
        title,
        row,
        str(len(measurement.epochs(row))),
        f"{1000 * median:.1f}",
        f"{1000 * min(measurement.epochs(row)):.1f}",
        f"{measurement.images / median:,.0f}",
        f"{measurement.ratio(row):.2f}",
        by_round,
        verdict,
    ]


def write(
    measurements: list[Measurement], *, folder: Path, date: datetime, device: torch.device, load_average: float
) -> Path:
    """Keep everything in ``<date>_<cpu>.json``; ``load_average`` is the machine's over the minute before the start."""
    hardware = environment.hardware(device)
    versions = environment.versions()
    for peer in PEERS.values():
        versions |= peer.versions()
    record = {
        "date": date.isoformat(timespec="seconds"),
        "git_commit": environment.git_commit(),
        "hardware": hardware,
        "load_average_before": load_average,
        "versions": versions,
        "bar": BAR,
        "measurements": [measurement.as_dict() for measurement in measurements],
    }
    cpu = re.sub(r"[^a-z0-9]+", "-", str(hardware["cpu"]).lower()).strip("-")
    path = folder / f"{date:%Y-%m-%d_%H-%M-%S}_{cpu}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
