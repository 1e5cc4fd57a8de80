"""Speed of digitlab against a bare PyTorch loop: ``python benchmarks/bench.py [--only a,c] [--all] [--quick]``.

Everything takes turns, a few epochs at a time, digitlab and the bare loop in this one process, so that what else the
machine does meets all of them. What counts is the median time of the training part of an epoch: where it misses one of
the bars in ``report.py``, in any workload, the exit code is 1. A full run is kept under ``benchmarks/results/``.
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
from kept import keep, surroundings
from peers import PEERS, PeerProcess
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
    whole = None
    if options.commands:
        print("whole commands", file=sys.stderr)
        size = _QUICK_BATCHES * WORKLOADS[0].batch_size if options.quick else None
        whole = commands.measure(
            rounds=options.rounds, peers=bool(options.peers), compiled=options.compile, train_size=size
        )
    show(measurements, whole)
    if options.quick:
        print("a smoke run: nothing is judged or kept")
        return 0
    print(keep(surroundings(date, device, load_average) | record(measurements, whole), "epochs"))
    held = [measurement.passed for measurement in measurements] + ([] if whole is None else [whole.passed])
    return 0 if all(held) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of digitlab against a bare PyTorch loop.")
    parser.add_argument("--only", metavar="a,c", help="these of the workloads a to e (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each row has (default: 5)")
    parser.add_argument("--compile", action="store_true", help="also digitlab with compile=true, its libraries made")
    parser.add_argument("--peers", action="store_true", help=f"also {', '.join(PEERS)}; slow")
    parser.add_argument("--commands", action="store_true", help="also the start-up and whole commands")
    parser.add_argument("--all", action="store_true", help="all of these")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few mini-batches")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: must be 1 or more")
    if options.all:
        options.compile = options.peers = options.commands = True
    options.peers = list(PEERS) if options.peers else []
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


def measure(
    workload: Workload, device: torch.device, *, rounds: int, compiled: bool, peers: Iterable[str]
) -> Measurement:
    """Rounds in which the bare loop, digitlab and the reference rows that are asked for have a turn each."""
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
        # The library is made here: one epoch, cut off after the calls of one chunk.
        digitlab_seconds(replace(workload, epochs=1), device, ["compile=true", "trainer.limit_train_batches=32"])
    with ExitStack() as processes:
        for name in peers:
            turns[name] = processes.enter_context(PeerProcess(name, workload, device)).epoch_seconds
        for place in range(rounds):
            for name, turn in turns.items():
                if name not in measurement.skipped and (place == 0 or name not in PEERS or not PEERS[name].once):
                    measurement.add(name, turn())
    return measurement


def bare_loops(workload: Workload, split: TrainingSplit, device: torch.device) -> dict[str, BareLoop]:
    """The bare loops by the names of their rows: the plain one, and those that share more of digitlab's setup."""
    loops = {BARE: BareLoop(workload, split, device)}
    threads = digitlab_threads(workload, tuple(split.images.shape[1:]))
    if device.type == "cpu" and threads != torch.get_num_threads():
        loops[BARE_THREADS] = BareLoop(workload, split, device, threads=threads)
    if not workload.hidden:
        loops[BARE_CHANNELS_LAST] = BareLoop(workload, split, device, channels_last=True)
    if device.type == "cuda":
        loops[BARE_GRAPH] = GraphLoop(workload, split, device, channels_last=not workload.hidden)
    return loops


def digitlab_seconds(workload: Workload, device: torch.device, more: Sequence[str] = ()) -> list[float]:
    """Training seconds of each epoch of one run."""
    return [float(row["train_seconds"]) for row in digitlab_rows(workload, device, more)]


def digitlab_rows(workload: Workload, device: torch.device, more: Sequence[str] = ()) -> list[dict[str, str]]:
    """``metrics.csv`` of one run as users run it: bar, events, metrics, checkpoints, early stopping."""
    overrides = [*workload.overrides(), "trainer=gpu" if device.type == "cuda" else "trainer=cpu", *more]
    with tempfile.TemporaryDirectory() as folder:
        with terminal():
            train(compose(overrides), folder=Path(folder), overrides=overrides)
        with (Path(folder) / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
