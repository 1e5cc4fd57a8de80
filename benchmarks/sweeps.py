"""Compares the vectorized launcher with the basic one in whole sweeps: ``benchmarks/sweeps.py [--only c,a] [--quick]``.

The basic launcher trains the runs of a sweep one after another, the vectorized one together, as members of a
population. Each sweep is one command that runs with one launcher and then with the other, on the same data. The time
from start to table counts. The exit code is 1 if a ratio misses its target. A full run is written to
``benchmarks/results/``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime

import torch
from rich.table import Table

from digitlab.config.compose import ROOT
from digitlab.results.table import wide_console
from records import environment_facts, write_record
from workloads import last_of_each_key, workload_by_key

_LAUNCHERS = ("basic", "vectorized")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A grid over workload ``key``, with one override for each axis, and the number of its runs, ``members``.

    ``bar`` is the target: the largest ratio of the vectorized launcher's time to the basic one's.
    """

    key: str
    grid: tuple[str, ...]
    members: int
    epochs: int
    bar: float

    @property
    def fixed(self) -> list[str]:
        """The overrides that all runs share."""
        swept = {override.partition("=")[0] for override in self.grid} | {"trainer.max_epochs"}
        overrides = workload_by_key(self.key).overrides()
        fixed = [override for override in overrides if override.partition("=")[0] not in swept]
        return [*fixed, f"trainer.max_epochs={self.epochs}"]


_SEEDS = "seed=0,1,2"
_DECAYS = "optimizer.weight_decay=0,1e-5,1e-4"
SWEEPS = (
    Sweep(
        key="c", grid=("optimizer.lr=0.1,0.25,0.5,1,2,3", _DECAYS, _SEEDS), members=54, epochs=5, bar=1 / 6,
    ),
    Sweep(key="a", grid=("optimizer.lr=0.3,0.1,0.03", _DECAYS, _SEEDS), members=27, epochs=5, bar=0.8),
    Sweep(key="e", grid=("optimizer.lr=0.3,0.1,0.03,0.01,0.003", _SEEDS), members=15, epochs=3, bar=1.1),
    Sweep(key="b", grid=("optimizer.lr=0.001,0.003", "seed=0,1"), members=4, epochs=2, bar=1.1),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Whole sweeps by the vectorized launcher against the basic one.")
    parser.add_argument("--only", metavar="c,a", help="these of the workloads a, b, c and e (default: all)")
    parser.add_argument("--quick", action="store_true", help="a short trial with a few mini-batches")
    options = parser.parse_args()
    keys = options.only.split(",") if options.only else [sweep.key for sweep in SWEEPS]
    if unknown := set(keys) - {sweep.key for sweep in SWEEPS}:
        parser.error(f"--only {options.only}: must be of a,b,c,e, and {unknown.pop()} is not")
    date, load_average = datetime.now().astimezone(), os.getloadavg()[0]
    rows = [measure(sweep, quick=options.quick) for sweep in SWEEPS if sweep.key in keys]
    show(rows)
    if options.quick:
        print("a short trial: nothing is compared with the targets or written")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(write_record(environment_facts(date, device, load_average) | {"sweeps": rows}, "sweeps"))
    return 0 if all(row["passed"] for row in rows) else 1


def measure(sweep: Sweep, *, quick: bool) -> dict[str, object]:
    """Measure the seconds of the whole sweep with both launchers, one after the other."""
    overrides = [*sweep.fixed, *sweep.grid, *(["data.train_size=500", "trainer.max_epochs=1"] if quick else [])]
    overrides = last_of_each_key(overrides)
    seconds = {launcher: _sweep_seconds(launcher, overrides) for launcher in _LAUNCHERS}
    ratio = seconds["vectorized"] / seconds["basic"]
    print(f"({sweep.key}) {sweep.members} members: {seconds} ratio {ratio:.3f}", file=sys.stderr)
    return asdict(sweep) | {"overrides": overrides, "seconds": seconds, "ratio": ratio, "passed": ratio <= sweep.bar}


def _sweep_seconds(launcher: str, overrides: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), "-m", f"hydra/launcher={launcher}", *overrides]
        started_at = time.perf_counter()
        subprocess.run([*command, f"hydra.sweep.dir={folder}/sweep"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started_at


def show(rows: list[dict[str, object]]) -> None:
    table = Table(title="Whole sweeps; target: vectorized over basic")
    for name in ("workload", "members", "epochs", "basic s", "vectorized s", "ratio", "bar", ""):
        table.add_column(name, justify="right")
    for row in rows:
        seconds = row["seconds"]
        assert isinstance(seconds, dict)
        verdict = "reached" if row["passed"] else "missed"
        table.add_row(
            f"({row['key']})", str(row["members"]), str(row["epochs"]), f"{seconds['basic']:.1f}",
            f"{seconds['vectorized']:.1f}", f"{row['ratio']:.3f}", f"{row['bar']:.3f}", verdict,
        )  # fmt: skip
    wide_console().print(table)


if __name__ == "__main__":
    sys.exit(main())
