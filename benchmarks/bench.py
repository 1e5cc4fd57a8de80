"""Compares the speed of digitlab with a bare PyTorch loop: ``benchmarks/bench.py [--only a,c] [--all] [--quick]``.

A row is one way to train: a bare loop, digitlab, digitlab compiled, or a peer such as JAX. All rows take turns,
a few epochs at a time, so that other work on the machine affects all of them. One turn of each row is a round. digitlab
and the bare loops run in this process, each peer in its own. The median time of the training part of an epoch counts.
The exit code is 1 if any workload misses one of the targets in ``report.py``. A full run is written to
``benchmarks/results/``.
"""

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import torch

import commands
from bare import BareLoop, GraphLoop
from digitlab.config.compose import compose
from digitlab.training import train
from peers import PEERS, PeerProcess
from records import environment_facts, write_record
from report import (
    BARE,
    BARE_CHANNELS_LAST,
    BARE_GRAPH,
    BARE_THREADS,
    COMPILED,
    DIGITLAB,
    Measurement,
    record,
    show,
)  # fmt: skip
from setups import bare_setup, digitlab_setup, digitlab_threads, peer_setups
from terminal import terminal
from workloads import WORKLOADS, TrainingSplit, Workload, training_split

_QUICK_BATCHES = 20


def main() -> int:
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    date, load_average = datetime.now().astimezone(), os.getloadavg()[0]
    measurements = []
    for workload in options.workloads:
        print(f"({workload.key}) {workload.title}", file=sys.stderr)
        measurements.append(
            measure(workload, device, rounds=options.rounds, compiled=options.compile, peers=options.peers)
        )
    command_times = None
    if options.commands:
        print("whole commands", file=sys.stderr)
        size = _QUICK_BATCHES * WORKLOADS[0].batch_size if options.quick else None
        command_times = commands.measure(
            rounds=options.rounds, peers=bool(options.peers), compiled=options.compile, train_size=size
        )
    show(measurements, command_times)
    if options.quick:
        print("a short trial: nothing is compared with the targets or written")
        return 0
    print(write_record(environment_facts(date, device, load_average) | record(measurements, command_times), "epochs"))
    passed = [measurement.passed for measurement in measurements]
    if command_times is not None:
        passed.append(command_times.passed)
    return 0 if all(passed) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the speed of digitlab with a bare PyTorch loop.")
    parser.add_argument("--only", metavar="a,c", help="only these of the workloads a to e (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each row (default: 5)")
    parser.add_argument("--compile", action="store_true", help="also digitlab with compile=true, after compiling")
    parser.add_argument("--peers", action="store_true", help=f"also {', '.join(PEERS)}; slow")
    parser.add_argument("--commands", action="store_true", help="also start-up and whole commands")
    parser.add_argument("--all", action="store_true", help="all of these")
    parser.add_argument("--quick", action="store_true", help="a short trial with a few mini-batches")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: must be 1 or more")
    if options.all:
        options.compile = options.peers = options.commands = True
    options.peers = list(PEERS) if options.peers else []
    by_key = {workload.key: workload for workload in WORKLOADS}
    keys = options.only.split(",") if options.only else by_key
    if unknown := [key for key in keys if key not in by_key]:
        parser.error(f"--only {options.only}: {unknown[0]} is not one of {','.join(by_key)}")
    options.workloads = [by_key[key] for key in keys]
    if options.quick:
        options.rounds = 1
        options.workloads = [_shortened(workload) for workload in options.workloads]
    return options


def _shortened(workload: Workload) -> Workload:
    return replace(workload, train_size=_QUICK_BATCHES * workload.batch_size, epochs=2)


def measure(
    workload: Workload, device: torch.device, *, rounds: int, compiled: bool, peers: Iterable[str]
) -> Measurement:
    """Measure one workload: in each round the bare loops, digitlab and the chosen peers have one turn each."""
    split = training_split(workload)
    loops, image_shape = bare_loops(workload, split, device), tuple(split.images.shape[1:])
    measurement = Measurement(workload=workload, device=device.type, images=len(split.images))
    measurement.setups = peer_setups(device)
    for name, loop in loops.items():
        measurement.setups[name] = bare_setup(
            device, threads=loop.threads, channels_last=loop.channels_last, graph=isinstance(loop, GraphLoop)
        )
    for name in (DIGITLAB, COMPILED):
        measurement.setups[name] = digitlab_setup(workload, image_shape, device, compiled=name == COMPILED)
    turns: dict[str, Callable[[], list[float] | str]] = {name: loop.epoch_seconds for name, loop in loops.items()}
    turns[DIGITLAB] = partial(digitlab_seconds, workload, device)
    if compiled:
        turns[COMPILED] = partial(digitlab_seconds, workload, device, ["compile=true"])
        # Compile the library before measuring: an epoch of 32 mini-batches is enough.
        digitlab_seconds(replace(workload, epochs=1), device, ["compile=true", "trainer.limit_train_batches=32"])
    with ExitStack() as processes:
        for name in peers:
            turns[name] = processes.enter_context(PeerProcess(name, workload, device)).epoch_seconds
        for round_index in range(rounds):
            for name, turn in turns.items():
                # A row that could not run once is not tried again.
                if name not in measurement.skipped and (round_index == 0 or name not in PEERS or not PEERS[name].once):
                    measurement.add(name, turn())
    return measurement


def bare_loops(workload: Workload, split: TrainingSplit, device: torch.device) -> dict[str, BareLoop]:
    """Return the bare loops by their names: the plain one and those that share more of digitlab's setup."""
    loops = {BARE: BareLoop(workload, split, device)}
    threads = digitlab_threads(workload, tuple(split.images.shape[1:]))
    if device.type == "cpu" and threads != torch.get_num_threads():
        loops[BARE_THREADS] = BareLoop(workload, split, device, threads=threads)
    if not workload.hidden:
        loops[BARE_CHANNELS_LAST] = BareLoop(workload, split, device, channels_last=True)
    if device.type == "cuda":
        loops[BARE_GRAPH] = GraphLoop(workload, split, device, channels_last=not workload.hidden)
    return loops


def digitlab_seconds(workload: Workload, device: torch.device, extra_overrides: Sequence[str] = ()) -> list[float]:
    """Return the training seconds of each epoch of one digitlab run."""
    return [float(row["train_seconds"]) for row in digitlab_rows(workload, device, extra_overrides)]


def digitlab_rows(
    workload: Workload, device: torch.device, extra_overrides: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Train as users do, with progress bar, events, checkpoints and early stopping; return the rows of metrics.csv."""
    overrides = [*workload.overrides(), "trainer=gpu" if device.type == "cuda" else "trainer=cpu", *extra_overrides]
    with tempfile.TemporaryDirectory() as folder:
        with terminal():
            train(compose(overrides), folder=Path(folder), overrides=overrides)
        with (Path(folder) / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
