"""Measures how the cost of a step grows: ``benchmarks/curves.py [--only width,chunk_length] [--rounds 3] [--quick]``.

It changes one number of workload (a) at a time and runs one command for each value (a point of a curve). It measures
the time of a training step and the peak memory of the command, and writes them to ``benchmarks/results/``. The members
of a population are networks that train together; there, the time of a step is divided by their number.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from commands import run_command
from digitlab.config.compose import ROOT
from digitlab.results.table import wide_console
from records import environment_facts, write_record
from workloads import last_of_each_key, workload_by_key

_STEPS, _EPOCHS = 400, 4  # the most steps of an epoch, and the epochs of each command
EAGER, COMPILED, ONE_THREAD, ALL_THREADS = "eager", "compiled", "one thread", "all threads"
# What each way adds to an ordinary run: an override, and environment variables.
_WAYS: dict[str, tuple[str, dict[str, str]]] = {
    EAGER: ("compile=false", {}),
    COMPILED: ("compile=true", {}),
    ONE_THREAD: ("compile=false", {"OMP_NUM_THREADS": "1"}),
    ALL_THREADS: ("compile=false", {"OMP_NUM_THREADS": str(torch.get_num_threads())}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A number that is changed, and the ``ways`` in which each of its values is measured.

    ``overrides`` returns the overrides for a value. With ``multirun`` each point is a sweep that trains a population.
    """

    key: str
    title: str
    values: tuple[int, ...]
    overrides: Callable[[int], list[str]]
    ways: tuple[str, ...] = (EAGER, COMPILED)
    multirun: bool = False


AXES = (
    Axis(
        key="batch_size", title="images in a mini-batch", values=(8, 16, 32, 64, 128, 256, 512, 1024),
        overrides=lambda value: [f"data.batch_size={value}"],
    ),
    Axis(
        key="width", title="units in each of the two hidden layers", values=(16, 32, 64, 128, 256, 512, 1024),
        overrides=lambda value: [f"model.hidden=[{value},{value}]"],
    ),
    Axis(
        key="threads", title="images in a mini-batch", values=(1, 2, 4, 8, 16, 32, 64, 128),
        overrides=lambda value: [f"data.batch_size={value}"], ways=(ONE_THREAD, ALL_THREADS),
    ),
    Axis(
        key="chunk_length", title="mini-batches in a chunk", values=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        overrides=lambda value: [f"trainer.chunk_length={value}"], ways=(EAGER,),
    ),
    Axis(
        key="train_size", title="images in the training set", values=(1_000, 3_000, 10_000, 30_000, 55_000),
        overrides=lambda value: [f"data.train_size={value}"], ways=(EAGER,),
    ),
    Axis(
        key="members", title="members of a population", values=(1, 2, 4, 8, 16, 32, 64), multirun=True,
        overrides=lambda value: [f"seed={','.join(map(str, range(value)))}", f"hydra.launcher.max_members={value}"],
    ),
    Axis(
        key="processes", title="processes (ddp), each with its share of a mini-batch", values=(1, 2, 4),
        overrides=lambda value: ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={value}"], ways=(EAGER,),
    ),
)  # fmt: skip


def main() -> None:
    options = _options()
    date, load_average = datetime.now().astimezone(), os.getloadavg()[0]
    rows = []
    for axis in options.axes:
        print(axis.title, file=sys.stderr)
        rows.append(measure(axis, rounds=options.rounds, quick=options.quick))
        show(rows[-1])
    if options.quick:
        print("a short trial: nothing is written")
        return
    print(
        write_record(
            environment_facts(date, torch.device("cpu"), load_average) | {"workload": "a", "curves": rows}, "curves"
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how the cost of a step grows.")
    keys = [axis.key for axis in AXES]
    parser.add_argument("--only", metavar="KEYS", help=f"only these of {','.join(keys)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each point (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a short trial: once, two values of each axis")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else keys
    if unknown := set(chosen) - set(keys):
        parser.error(f"--only {options.only}: {unknown.pop()} is not one of {','.join(keys)}")
    options.axes = [axis for axis in AXES if axis.key in chosen]
    return options


def measure(axis: Axis, *, rounds: int, quick: bool) -> dict[str, Any]:
    """Measure all points of an axis; return the medians over ``rounds``. In each round every point has one turn."""
    values, rounds = (axis.values[:2], 1) if quick else (axis.values, rounds)
    points: dict[tuple[int, str], list[tuple[float, int]]] = {}
    for value in values:
        if COMPILED in axis.ways:
            measure_point(axis, value, COMPILED)  # compiles the library
    for _ in range(rounds):
        for value in values:
            for way in axis.ways:
                points.setdefault((value, way), []).append(measure_point(axis, value, way))
    return {
        "key": axis.key, "title": axis.title, "values": values,
        "ways": {
            way: {
                name: [statistics.median(point[index] for point in points[value, way]) for value in values]
                for index, name in enumerate(("microseconds_per_step", "peak_bytes"))
            }
            for way in axis.ways
        },
    }  # fmt: skip


def measure_point(axis: Axis, value: int, way: str) -> tuple[float, int]:
    """Run the command of one point; return the microseconds of a step, and the peak memory of the command in bytes.

    The time of a step is that of the median epoch, divided by its steps.
    """
    workload = workload_by_key("a")
    overrides = [*workload.overrides(), "trainer=cpu", f"trainer.limit_train_batches={_STEPS}", "test=none"]
    way_override, environment = _WAYS[way]
    overrides += [f"trainer.max_epochs={_EPOCHS}", "early_stopping=null", way_override, *axis.overrides(value)]
    overrides = last_of_each_key(overrides)
    with tempfile.TemporaryDirectory() as folder:
        place = ["-m", f"hydra.sweep.dir={folder}/sweep"] if axis.multirun else [f"hydra.run.dir={folder}/run"]
        used = run_command([sys.executable, str(ROOT / "train.py"), *place, *overrides], environment)
        # Each member of a population writes its share of the time.
        table = next(Path(folder).rglob("metrics.csv"))
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    steps = int(rows[0]["step"])
    return 1e6 * statistics.median(float(row["train_seconds"]) for row in rows) / steps, used.peak_bytes


def show(row: dict[str, Any]) -> None:
    table = Table(title="Cost of a step of workload (a)")
    for name in (row["title"], *(f"{way}, {unit}" for way in row["ways"] for unit in ("µs a step", "peak MiB"))):
        table.add_column(name, justify="right")
    for index, value in enumerate(row["values"]):
        cells = [
            text
            for way in row["ways"].values()
            for text in (f"{way['microseconds_per_step'][index]:,.0f}", f"{way['peak_bytes'][index] / 2**20:,.0f}")
        ]
        table.add_row(f"{value:,}", *cells)
    wide_console().print(table)


if __name__ == "__main__":
    main()
