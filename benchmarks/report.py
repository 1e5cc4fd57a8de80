"""Holds the targets and the measurements of ``bench.py``, and makes its tables and records from them."""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.table import Table

from commands import CommandTimes
from digitlab.results.table import wide_console
from peers import JAX_SCAN, KERAS_JAX, PEERS, USUAL
from setups import Setup
from workloads import Workload

BARE, DIGITLAB, COMPILED = "bare loop", "digitlab", "digitlab compiled"
# Bare loops that share more of digitlab's setup, measured where the plain one differs in it.
BARE_THREADS, BARE_CHANNELS_LAST = "bare loop, digitlab's threads", "bare loop, channels last"
BARE_GRAPH = "bare loop, CUDA graph"
_VARIANTS = (BARE_THREADS, BARE_CHANNELS_LAST, BARE_GRAPH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The goal that ``row`` takes at most ``at_most`` times as long as ``against``.

    It applies on ``device`` to ``workloads``, a text of their keys.
    """

    row: str
    against: str
    at_most: float
    workloads: str
    device: Literal["cpu", "cuda"] = "cpu"


TARGETS = (
    Target(row=DIGITLAB, against=BARE, at_most=1.10, workloads="abcde"),
    Target(row=COMPILED, against=BARE, at_most=0.90, workloads="b"),
    Target(row=COMPILED, against=JAX_SCAN, at_most=1.25, workloads="acde"),
    Target(row=COMPILED, against=KERAS_JAX, at_most=1.00, workloads="abcde"),
    Target(row=DIGITLAB, against=BARE, at_most=1 / 3, workloads="acd", device="cuda"),
    Target(row=DIGITLAB, against=USUAL, at_most=1 / 20, workloads="acd", device="cuda"),
)
# The key of a record, by device: figures of a GPU have their own table.
EPOCHS = {"cpu": "epochs", "cuda": "epochs_on_gpu"}


@dataclass(slots=True, kw_only=True)
class Measurement:
    """The measurements of one workload.

    A row is one way to train: a bare loop, digitlab or a peer. ``rounds`` has, for each row, one list of seconds per
    epoch for each round, or ``skipped`` has the reason why there are none. ``setups`` says how each row computes.
    ``images`` is the number of training images.
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
        """Return the seconds of all epochs of all rounds."""
        return [seconds for epochs in self.rounds[row] for seconds in epochs]

    def median(self, row: str) -> float:
        """Return the seconds of the median epoch."""
        return statistics.median(self.epochs(row))

    def ratio(self, row: str, against: str = BARE) -> float:
        """Return the median of ``row`` divided by the median of ``against``."""
        return self.median(row) / self.median(against)

    def ratios_by_round(self, row: str, against: str) -> list[float]:
        """Return the ratio of each single round, which shows how much noise there is."""
        # A slow peer has fewer rounds than the others.
        pairs = zip(self.rounds[row], self.rounds[against], strict=False)
        return [statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs]

    @property
    def targets(self) -> list[Target]:
        """The targets for this workload and device whose rows were measured."""
        return [
            target
            for target in TARGETS
            if target.device == self.device
            and self.workload.key in target.workloads
            and {target.row, target.against} <= self.rounds.keys()
        ]

    @property
    def variants(self) -> list[tuple[str, str]]:
        """Pairs of a row of digitlab and a bare loop that shares more of its setup. There are no targets for them."""
        return [
            (row, against)
            for row in (DIGITLAB, COMPILED)
            for against in _VARIANTS
            if {row, against} <= self.rounds.keys()
        ]

    def differences(self, row: str, against: str) -> str:
        """Return what differs between the setups of two rows; empty if nothing does, or if it was not recorded."""
        if not {row, against} <= self.setups.keys():
            return ""
        return self.setups[row].differences(self.setups[against])

    def reaches(self, target: Target) -> bool:
        return self.ratio(target.row, target.against) <= target.at_most

    @property
    def passed(self) -> bool:
        return all(map(self.reaches, self.targets))

    def as_dict(self) -> dict[str, Any]:
        return {
            "workload": self.workload.key,
            "title": self.workload.title,
            "overrides": self.workload.overrides(),
            "images": self.images,
            "steps": self.steps,
            "passed": self.passed,
            # Records of earlier versions have this key for the targets, too.
            "bars": [
                {
                    "row": target.row, "against": target.against, "at_most": target.at_most,
                    "ratio": self.ratio(target.row, target.against),
                    "ratios_by_round": self.ratios_by_round(target.row, target.against), "passed": self.reaches(target),
                    "differences": self.differences(target.row, target.against),
                }
                for target in self.targets
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
    console = wide_console()
    if measurements:
        console.print(_table(measurements))
        for target in TARGETS:
            if target.device == "cuda" and measurements[0].device == "cpu":
                console.print(f"on a GPU, {target.row} ≤ {target.at_most:.2f} × {target.against}: not measured")
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
        "\n".join(_verdict(measurement, target) for target in measurement.targets if target.row == row),
        measurement.differences(row, BARE),
    ]


def _verdict(measurement: Measurement, target: Target) -> str:
    by_round = measurement.ratios_by_round(target.row, target.against)
    ratio = f"{measurement.ratio(target.row, target.against):.2f} ({min(by_round):.2f} … {max(by_round):.2f})"
    verdict = "reached" if measurement.reaches(target) else "MISSED"
    return f"{verdict}: {ratio} ≤ {target.at_most:.2f} × {target.against}"


def record(measurements: list[Measurement], commands: CommandTimes | None) -> dict[str, Any]:
    """Return the record of measurements on one device, without the environment facts."""
    peers = [peer.versions() for peer in PEERS.values()]
    facts: dict[str, Any] = {
        "peer_versions": {package: version for versions in peers for package, version in versions.items()},
        EPOCHS[measurements[0].device]: [measurement.as_dict() for measurement in measurements],
    }
    return facts if commands is None else facts | {"commands": commands.as_dict()}
