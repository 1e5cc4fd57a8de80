"""Measures the parts of a training step: ``python benchmarks/step_profile.py [--only a,c] [--epochs 3] [--quick]``.

It replaces functions of digitlab by versions that measure their time in an ordinary run. That costs about 0.3 µs for
each call. The time of an epoch's training that is in none of them is the part of Lightning, the loop and everything
else. Medians over the epochs are written to ``benchmarks/results/``.
"""

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import patch

import torch
from rich.table import Table

from bench import digitlab_rows
from digitlab.data.chunks import Chunk
from digitlab.engine.eager import TrainStep
from digitlab.engine.fused_execution import FusedUpdates
from digitlab.results.table import wide_console
from digitlab.training import classifier
from floors import floors
from records import environment_facts, write_record
from workloads import WORKLOADS, Workload

IMAGES, FORWARD, BACKWARD, UPDATE = "images gathered, cast, normalised", "forward and loss", "backward", "update"
_SHAPES: dict[str, tuple[int, int, int]] = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
CALL, CHECKS, COUNTS, REST = "compiled call", "kept and checked to be finite", "metrics", "Lightning and the loop"


class Clock:
    """Adds up the seconds of each part of a step until ``take`` returns and resets them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any], *, of: str | None = None) -> Callable[..., Any]:
        """Return ``function`` with measurement: its time is added to ``part``.

        If it is called inside a function of another part, ``of``, it is subtracted from that.
        """

        def run(*arguments: Any, **named: Any) -> Any:
            started_at = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds = time.perf_counter() - started_at
                self._seconds[part] += seconds
                if of is not None:
                    self._seconds[of] -= seconds

        return run

    def timed_generator(
        self, part: str, function: Callable[..., Iterator[Any]], *, of: str | None = None
    ) -> Callable[..., Iterator[Any]]:
        """Return ``function``, which returns an iterator, so that the time of each of its items is measured."""

        def run(*arguments: Any, **named: Any) -> Iterator[Any]:
            iterator = function(*arguments, **named)
            next_item = self.timed(part, lambda: next(iterator, None), of=of)
            while (item := next_item()) is not None:
                yield item

        return run

    def take(self) -> dict[str, float]:
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


@contextmanager
def watched(clock: Clock, optimizer: type[torch.optim.Optimizer]) -> Iterator[None]:
    """Time the parts of all runs in this context with ``clock``."""
    # When an optimizer is created, PyTorch wraps the step of its class for the profiler. It will wrap the replacement
    # again, so measure the function inside.
    step: Callable[..., Any] = optimizer.step
    parts = [
        (Chunk, "minibatches", clock.timed_generator(IMAGES, Chunk.minibatches)),
        (Chunk, "blocks", clock.timed_generator(IMAGES, Chunk.blocks, of=CALL)),
        (TrainStep, "__call__", clock.timed(FORWARD, TrainStep.__call__)),
        (classifier, "_plain_backward", clock.timed(BACKWARD, classifier._plain_backward, of=FORWARD)),
        (optimizer, "step", clock.timed(UPDATE, getattr(step, "__wrapped__", step), of=FORWARD)),
        (FusedUpdates, "run_part", clock.timed(CALL, FusedUpdates.run_part)),
        (TrainStep, "save", clock.timed(CHECKS, TrainStep.save)),
        (TrainStep, "finite", clock.timed(CHECKS, TrainStep.finite)),
        (classifier.Classifier, "_count", clock.timed(COUNTS, classifier.Classifier._count)),
    ]
    with ExitStack() as patches:
        for owner, name, function in parts:
            patches.enter_context(patch.object(owner, name, function))
        yield


def profile(workload: Workload, *, epochs: int, compiled: bool) -> dict[str, float]:
    """Return the microseconds per step of each part: medians over ``epochs`` runs of one epoch each."""
    extra_overrides = ["compile=true"] if compiled else []
    one_epoch, device = replace(workload, epochs=1), torch.device("cpu")
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[workload.optimizer]
    clock, parts_by_epoch = Clock(), []
    # Compile the library before measuring, and import what a first run imports.
    digitlab_rows(one_epoch, device, [*extra_overrides, "trainer.limit_train_batches=32"])
    with watched(clock, optimizer):
        for _ in range(epochs):
            (row,) = digitlab_rows(one_epoch, device, extra_overrides)
            parts = clock.take()
            parts[REST] = float(row["train_seconds"]) - sum(parts.values())
            parts_by_epoch.append({part: 1e6 * seconds / int(row["step"]) for part, seconds in parts.items()})
    return {part: statistics.median(epoch.get(part, 0.0) for epoch in parts_by_epoch) for part in parts_by_epoch[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the parts of a training step.")
    parser.add_argument("--only", metavar="a,c", default="a,b,c,d,e", help="only these workloads (default: all)")
    parser.add_argument("--epochs", type=int, default=3, help="number of measured epochs (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a short trial: one epoch of a few mini-batches")
    options = parser.parse_args()
    date, load_average = datetime.now().astimezone(), os.getloadavg()[0]
    profiles: list[dict[str, Any]] = []
    for workload in WORKLOADS:
        if workload.key not in options.only.split(","):
            continue
        if options.quick:
            workload = replace(workload, train_size=40 * workload.batch_size)
        for compiled in (False, True):
            print(f"({workload.key}) {'compiled' if compiled else 'eager'}", file=sys.stderr)
            parts = profile(workload, epochs=1 if options.quick else options.epochs, compiled=compiled)
            profiles.append({"workload": workload.key, "compiled": compiled, "microseconds_per_step": parts})
            if not compiled:
                profiles[-1]["floors"] = floors(workload, _SHAPES[workload.data])
    show(profiles)
    if options.quick:
        print("a short trial: nothing is written")
        return
    print(write_record(environment_facts(date, torch.device("cpu"), load_average) | {"profiles": profiles}, "profile"))


def show(profiles: list[dict[str, Any]]) -> None:
    table = Table(title="µs per step")
    table.add_column("part")
    for each in profiles:
        table.add_column(f"{each['workload']}{' compiled' if each['compiled'] else ''}", justify="right")
    for part in (IMAGES, FORWARD, BACKWARD, UPDATE, CALL, CHECKS, COUNTS, REST):
        cells = (each["microseconds_per_step"].get(part) for each in profiles)
        table.add_row(part, *("" if cell is None else f"{cell:,.0f}" for cell in cells))
    for name in ("arithmetic", "memory"):
        cells = (each.get("floors", {}).get(name) for each in profiles)
        table.add_row(f"floor by {name}", *("" if cell is None else f"{cell:,.0f}" for cell in cells))
    wide_console().print(table)


if __name__ == "__main__":
    main()
