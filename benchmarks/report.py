"""The targets of ``bench.py``, its measurements, and the tables and records made from them."""

import statistics
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from commands import CommandTimes
from peers import JAX_SCAN, KERAS_JAX, PEERS, USUAL
from setups import Setup
from workloads import Workload

BARE, DIGITLAB, COMPILED = "bare loop", "digitlab", "digitlab compiled"
# Bare loops that share more of digitlab's setup, measured where the plain one differs in it.
BARE_THREADS, BARE_CHANNELS_LAST = "bare loop, digitlab's threads", "bare loop, channels last"
BARE_GRAPH = "bare loop, CUDA graph"
_VARIANTS = (BARE_THREADS, BARE_CHANNELS_LAST, BARE_GRAPH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A target: on ``device`` and in ``workloads``, ``row`` takes at most ``at_most`` times as long as ``against``."""

    row: str
    against: str
    at_most: float
    workloads: str
    device: Literal["cpu", "cuda"] = "cpu"


BARS = (
    Bar(row=DIGITLAB, against=BARE, at_most=1.10, workloads="abcde"),
    Bar(row=COMPILED, against=BARE, at_most=0.90, workloads="b"),
    Bar(row=COMPILED, against=JAX_SCAN, at_most=1.25, workloads="acde"),
    Bar(row=COMPILED, against=KERAS_JAX, at_most=1.00, workloads="abcde"),
    Bar(row=DIGITLAB, against=BARE, at_most=1 / 3, workloads="acd", device="cuda"),
    Bar(row=DIGITLAB, against=USUAL, at_most=1 / 20, workloads="acd", device="cuda"),
)
# The key of a record, by device: figures of a GPU have their own table.
EPOCHS = {"cpu": "epochs", "cuda": "epochs_on_gpu"}


@dataclass(slots=True, kw_only=True)
class Measurement:
    """One workload: for each row the seconds of every epoch, one list per round, or the reason why it was skipped.

    ``setups`` says how each row computes.
    """

    workload: Workload
    device: str
    images: int
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    setups: dict[str, Setup] = field(default_factory=dict)

    def add(self, row: str, epoch_seconds: list[float] | str) -> None:
        if isinstance(epoch_seconds, str):
            self.skipped[row] = epoch_seconds
        else:
            self.rounds.setdefault(row, []).append(epoch_seconds)

    @property
    def steps(self) -> int:
        """Mini-batches in an epoch."""
        return -(-self.images // self.workload.batch_size)

    def epochs(self, row: str) -> list[float]:
        """Seconds of all epochs of all rounds."""
        return [seconds for epochs in self.rounds[row] for seconds in epochs]

    def median(self, row: str) -> float:
        """Seconds of the median epoch."""
        return statistics.median(self.epochs(row))

    def ratio(self, row: str, against: str = BARE) -> float:
        """The median of ``row`` divided by the median of ``against``."""
        return self.median(row) / self.median(against)

    def ratios_by_round(self, row: str, against: str) -> list[float]:
        """The ratio of each single round, which shows how much noise there is."""
        pairs = zip(self.rounds[row], self.rounds[against], strict=False)
        return [statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs]

    @property
    def bars(self) -> list[Bar]:
        """The targets for this workload and device whose rows were measured."""
        return [
            bar
            for bar in BARS
            if bar.device == self.device
            and self.workload.key in bar.workloads
            and {bar.row, bar.against} <= self.rounds.keys()
        ]

    @property
    def variants(self) -> list[tuple[str, str]]:
        """Pairs of a row of digitlab and a bare loop that shares more of its setup; no bar is about them."""
        return [
            (row, against)
            for row in (DIGITLAB, COMPILED)
            for against in _VARIANTS
            if {row, against} <= self.rounds.keys()
        ]

    def differences(self, row: str, against: str) -> str:
        """What differs between the setups of two rows; empty if nothing does, or if it was not recorded."""
        if not {row, against} <= self.setups.keys():
            return ""
        return self.setups[row].differences(self.setups[against])

    def holds(self, bar: Bar) -> bool:
        return self.ratio(bar.row, bar.against) <= bar.at_most

    @property
    def passed(self) -> bool:
        return all(map(self.holds, self.bars))

    def as_dict(self) -> dict[str, Any]:
        return {
            "workload": self.workload.key,
            "title": self.workload.title,
            "overrides": self.workload.overrides(),
            "images": self.images,
            "steps": self.steps,
            "passed": self.passed,
            "bars": [
                {
                    "row": bar.row, "against": bar.against, "at_most": bar.at_most,
                    "ratio": self.ratio(bar.row, bar.against),
                    "ratios_by_round": self.ratios_by_round(bar.row, bar.against), "passed": self.holds(bar),
                    "differences": self.differences(bar.row, bar.against),
                }
                for bar in self.bars
            ],
            "variants": [
                {
                    "row": row, "against": against, "ratio": self.ratio(row, against),
                    "ratios_by_round": self.ratios_by_round(row, against),
                    "differences": self.differences(row, against),
                }
                for row, against in self.variants
            ],
            "rows": {
                row: {
                    "median_seconds": self.median(row), "min_seconds": min(self.epochs(row)),
                    "microseconds_per_step": 1e6 * self.median(row) / self.steps, "epoch_seconds": rounds,
                    "setup": asdict(self.setups[row]) if row in self.setups else None,
                }
                for row, rounds in self.rounds.items()
            },
            "skipped": self.skipped,
        }  # fmt: skip


def show(measurements: list[Measurement], commands: CommandTimes | None) -> None:
    """Print one table of the workloads and one of the commands."""
    # Without a terminal rich would assume 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 200)
    if measurements:
        console.print(_table(measurements))
        for bar in BARS:
            if bar.device == "cuda" and measurements[0].device == "cpu":
                console.print(f"on a GPU, {bar.row} ≤ {bar.at_most:.2f} × {bar.against}: not measured")
    if commands is not None:
        console.print(commands.table())


def _table(measurements: list[Measurement]) -> Table:
    table = Table(title="Training part of an epoch, medians")
    for name in ("workload", "row"):
        table.add_column(name)
    for name in ("epochs", "median ms", "min ms", "µs a step", "× bare", "targets"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("differs from the bare loop in")
    for measurement in measurements:
        for row in measurement.rounds:
            table.add_row(*_cells(measurement, row))
        for row, reason in measurement.skipped.items():
            table.add_row("", row, "", "", "", "", "", "", reason)
        table.add_section()
    return table


def _cells(measurement: Measurement, row: str) -> list[str]:
    median = measurement.median(row)
    return [
        f"({measurement.workload.key}) {measurement.workload.title}" if row == BARE else "",
        row,
        str(len(measurement.epochs(row))),
        f"{1000 * median:.1f}",
        f"{1000 * min(measurement.epochs(row)):.1f}",
        f"{1e6 * median / measurement.steps:,.0f}",
        f"{measurement.ratio(row):.2f}",
        "\n".join(_verdict(measurement, bar) for bar in measurement.bars if bar.row == row),
        measurement.differences(row, BARE),
    ]


def _verdict(measurement: Measurement, bar: Bar) -> str:
    by_round = measurement.ratios_by_round(bar.row, bar.against)
    ratio = f"{measurement.ratio(bar.row, bar.against):.2f} ({min(by_round):.2f} … {max(by_round):.2f})"
    return f"{'reached' if measurement.holds(bar) else 'MISSED'}: {ratio} ≤ {bar.at_most:.2f} × {bar.against}"


def record(measurements: list[Measurement], commands: CommandTimes | None) -> dict[str, Any]:
    """The record of measurements on one device, without the environment facts."""
    peers = [peer.versions() for peer in PEERS.values()]
    facts: dict[str, Any] = {
        "peer_versions": {package: version for versions in peers for package, version in versions.items()},
        EPOCHS[measurements[0].device]: [measurement.as_dict() for measurement in measurements],
    }
    return facts if commands is None else facts | {"commands": commands.as_dict()}
