"""Speed of digitlab against a bare PyTorch loop: ``python benchmarks/bench.py [--only a,c] [--peers] [--quick]``.

Both run in this one process and take turns, a few epochs at a time, so that what else the machine does meets both.
What counts is the median time of the training part of an epoch: where digitlab's is more than the bar in ``report.py``
times the bare loop's, in any workload, the exit code is 1. A full run is kept under ``benchmarks/results/``.
"""

import argparse
import csv
import os
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch

from bare import BareLoop
from digitlab.config import compose
from digitlab.training import train
from peers import PEERS, peer_seconds
from report import BARE, DIGITLAB, Measurement, show, write
from terminal import terminal
from workloads import WORKLOADS, Workload, training_split

_RESULTS = Path(__file__).parent / "results"
_QUICK_BATCHES = 20


def main() -> int:
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    date, load_average = datetime.now().astimezone(), os.getloadavg()[0]
    measurements = []
    for workload in options.workloads:
        print(f"({workload.key}) {workload.title}", file=sys.stderr)
        measurements.append(measure(workload, device, rounds=options.rounds, peers=options.peers))
    show(measurements)
    if options.quick:
        print("a smoke run: nothing is judged or kept")
        return 0
    path = write(measurements, folder=_RESULTS, date=date, device=device, load_average=load_average)
    print(path)
    return 0 if all(measurement.passed for measurement in measurements) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of digitlab against a bare PyTorch loop.")
    parser.add_argument("--only", metavar="a,c", help="these of the workloads a to e (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each of the two has (default: 5)")
    parser.add_argument("--peers", action="store_true", help="also Keras on JAX and the usual Lightning way; slow")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few mini-batches")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: must be 1 or more")
    by_key = {workload.key: workload for workload in WORKLOADS}
    keys = options.only.split(",") if options.only else by_key
    if unknown := [key for key in keys if key not in by_key]:
        parser.error(f"--only {options.only}: must be of {','.join(by_key)}, and {unknown[0]} is not")
    options.workloads = [by_key[key] for key in keys]
    if options.quick:
        options.rounds = 1
        options.workloads = [_shortened(workload) for workload in options.workloads]
    return options


def _shortened(workload: Workload) -> Workload:
    return replace(workload, train_size=_QUICK_BATCHES * workload.batch_size, epochs=2)


def measure(workload: Workload, device: torch.device, *, rounds: int, peers: bool) -> Measurement:
    """Rounds of the bare loop and digitlab in turn, then the reference rows if asked for."""
    loop = BareLoop(workload, training_split(workload), device)
    measurement = Measurement(workload=workload, images=len(loop.images))
    for _ in range(rounds):
        measurement.add(BARE, loop.epoch_seconds())
        measurement.add(DIGITLAB, digitlab_seconds(workload, device))
    for name in PEERS if peers else ():
        seconds = peer_seconds(name, workload, device)
        if isinstance(seconds, str):
            measurement.skipped[name] = seconds
        else:
            measurement.add(name, seconds)
    return measurement


def digitlab_seconds(workload: Workload, device: torch.device) -> list[float]:
    """Training seconds of each epoch of one run as users run it: bar, events, metrics, checkpoints, early stopping."""
    overrides = [*workload.overrides(), "trainer=gpu" if device.type == "cuda" else "trainer=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        with terminal():
            train(compose(overrides), folder=Path(folder), overrides=overrides)
        with (Path(folder) / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return [float(row["train_seconds"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    sys.exit(main())
