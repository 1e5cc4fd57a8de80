"""Compares a step of one member of a population with a bare loop: ``benchmarks/members.py [--only c,a] [--rounds 5]``.

The members of a population are networks that train together as one stacked network. The bare loop of one network, the
eager population and the compiled population take turns in this process. It measures processor time, which other work on
the machine hardly changes, divided by the steps of all members. The time includes gathering images, the steps, and
counting for the metrics. The exit code is 1 if the compiled population misses its target. A full run is written to
``benchmarks/results/``.

On a GPU it compares 256 members with one member instead, by the wall time until the device has finished.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import groupby, product
from typing import Any

import torch
from rich.table import Table

from bare import BareLoop
from digitlab.config.compose import compose
from digitlab.core.abilities import abilities
from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Position
from digitlab.engine.cuda_graph import graph_capture_for
from digitlab.engine.device import float32_products
from digitlab.engine.fused_execution import Acceleration
from digitlab.engine.metrics import confusions
from digitlab.engine.stacked_runner import StackedRunner
from digitlab.results.table import wide_console
from digitlab.training.experiment import Experiment
from digitlab.training.setup import initial_classifier, read_data, training_plan
from records import environment_facts, write_record
from sweeps import SWEEPS, Sweep
from workloads import Workload, training_split, workload_by_key

# Targets by workload: the step of a compiled member, divided by the step of the bare loop.
_BARS = {"c": 0.08, "a": 0.60}
# The steps of a round. If an epoch has fewer, as (a) with 430, a round is an epoch.
_STEPS = 512
_TRAINING_IMAGES = 55_000
# The chunk lengths of the vectorized launcher.
_CHUNK, _CHUNK_ON_GPU = 64, 256
# Target on a GPU: the time of many members, divided by the time of one.
_ON_GPU = 4.0
_RATES = ",".join(f"{0.01 * 1.25**place:.4f}" for place in range(16))
_SEEDS = ",".join(map(str, range(16)))
_MANY = Sweep(key="a", grid=(f"optimizer.lr={_RATES}", f"seed={_SEEDS}"), members=256, epochs=1, bar=_ON_GPU)
_ONE = Sweep(key="a", grid=("seed=0",), members=1, epochs=1, bar=_ON_GPU)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The measurements of one sweep. ``bar`` is the target: the largest ratio of ``compiled`` to ``bare``.

    ``bare`` holds the microseconds of processor time per step of the bare loop, one number per round. ``eager`` and
    ``compiled`` hold those per step of one member of the eager and the compiled population.
    """

    key: str
    members: int
    steps: int
    bar: float
    bare: list[float]
    eager: list[float]
    compiled: list[float]

    def ratio(self, microseconds: list[float]) -> float:
        return statistics.median(microseconds) / statistics.median(self.bare)

    @property
    def passed(self) -> bool:
        return self.ratio(self.compiled) <= self.bar


class Members:
    """The population of ``sweep``, stacked as by the vectorized launcher, and its mini-batches."""

    def __init__(self, sweep: Sweep, *, compiled: bool, device: torch.device, steps: int = _STEPS) -> None:
        axes = [override.partition("=") for override in sweep.grid]
        grid = [[f"{key}={value}" for value in values.split(",")] for key, _, values in axes]
        overrides_by_member = [[*sweep.fixed, *point] for point in product(*grid)]
        experiments = [Experiment.from_config(compose(each), typed=each) for each in overrides_by_member]
        # Members with the same seed are next to each other, because they share their mini-batches.
        experiments.sort(key=lambda experiment: experiment.options.seed)
        data = read_data(experiments[0])
        data.to(device)
        classifiers = [initial_classifier(experiment, data).to(device) for experiment in experiments]
        self._chunk = min(_CHUNK_ON_GPU if abilities(device).cuda_graphs else _CHUNK, steps)
        plans = [
            replace(training_plan(experiment, data).chunks, chunk_length=self._chunk) for experiment in experiments
        ]
        graph_capture = graph_capture_for(device, allowed=True)
        specs = [classifier.member_spec() for classifier in classifiers]
        self.runner = StackedRunner(specs, device=device, acceleration=Acceleration(compiled, graph_capture))
        self._members = len(classifiers)
        plans_by_seed = [next(same_seed) for _, same_seed in groupby(plans, key=lambda plan: plan.seed)]
        # For each seed, the chunks of one round. A chunk is a few mini-batches, the unit in which digitlab trains.
        self._chunks = [list(data.chunks(plan, Position()))[: steps // self._chunk] for plan in plans_by_seed]
        for chunks in zip(*self._chunks, strict=True):
            self.runner.prepare(chunks, first=0, steps_ahead=steps)
        if not self.runner.fused_updates.ready and (compiled or graph_capture):
            raise SystemExit("nothing was compiled or captured: see the warning")

    def run_round(self) -> None:
        """Train on the mini-batches of one round, and count the predictions for the metrics."""
        for number, chunks in enumerate(zip(*self._chunks, strict=True)):
            logits, losses, _ = self.runner.run_chunk(chunks, first=number * self._chunk, stop_signal=StopSignal())
            confusions(logits, self.runner.networks.expand_to_members([chunk.labels for chunk in chunks]))
            losses.T.tolist()  # waits for a GPU

    @property
    def steps(self) -> int:
        """The steps of a round."""
        steps: int = sum(len(chunk.indices) for chunk in self._chunks[0])
        return steps

    @property
    def member_steps(self) -> int:
        """The steps of a round, added up over all members."""
        return self._members * self.steps


def main() -> int:
    parser = argparse.ArgumentParser(description="A population's member-step against the bare loop's step.")
    parser.add_argument("--only", metavar="c,a", help="these of the sweeps c and a (default: both)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each has (default: 5)")
    options = parser.parse_args()
    keys = options.only.split(",") if options.only else list(_BARS)
    if unknown := set(keys) - set(_BARS):
        parser.error(f"--only {options.only}: must be of c,a, and {unknown.pop()} is not")
    # With two threads, the time in which they wait for each other would count as well.
    torch.set_num_threads(1)
    date, load_average = datetime.now().astimezone(), os.getloadavg()[0]
    if torch.cuda.is_available():
        device = torch.device("cuda")
        on_gpu = measure_on(device, rounds=options.rounds)
        print(f"256 members of (a) over one: {on_gpu['ratio']:.2f}, at most {_ON_GPU:.0f}")
        print(write_record(environment_facts(date, device, load_average) | {"members_on_gpu": on_gpu}, "members"))
        return 0 if on_gpu["passed"] else 1
    rows = [measure(sweep, rounds=options.rounds) for sweep in SWEEPS if sweep.key in keys]
    show(rows)
    print(f"on a GPU, 256 members of (a) ≤ {_ON_GPU:.0f} × one: not measured")
    measured = [asdict(row) | {"ratio": row.ratio(row.compiled), "passed": row.passed} for row in rows]
    record = environment_facts(date, torch.device("cpu"), load_average) | {"members": measured}
    print(write_record(record, "members"))
    return 0 if all(row.passed for row in rows) else 1


def measure(sweep: Sweep, *, rounds: int) -> Row:
    """Measure the bare loop, the eager and the compiled population in turn, after one round of warm-up."""
    workload = workload_by_key(sweep.key)
    workload = replace(workload, train_size=min(_STEPS * workload.batch_size, _TRAINING_IMAGES), epochs=1)
    bare = BareLoop(workload, training_split(workload), torch.device("cpu"))
    eager, compiled = (Members(sweep, compiled=each, device=bare.device) for each in (False, True))
    turns: dict[str, tuple[Callable[[], object], int]] = {
        "bare": (bare.epoch_seconds, _steps(workload, bare)),
        "eager": (eager.run_round, eager.member_steps),
        "compiled": (compiled.run_round, compiled.member_steps),
    }
    microseconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, (turn, steps) in turns.items():
            started_at = time.process_time()
            turn()
            microseconds[name].append(1e6 * (time.process_time() - started_at) / steps)
    return Row(
        key=sweep.key, members=sweep.members, steps=compiled.steps, bar=_BARS[sweep.key],
        **{name: values[1:] for name, values in microseconds.items()},  # without the warm-up
    )  # fmt: skip


def measure_on(device: torch.device, *, rounds: int, many: Sweep = _MANY, steps: int = _STEPS) -> dict[str, Any]:
    """Measure the seconds of ``many`` members and of one for the same steps on a GPU, in turn, after a warm-up round.

    Return the medians, their ratio, and whether it reaches the target.
    """
    # In TF32, like the rows of the other benchmarks. Already the constructors need it, because a CUDA graph keeps the
    # kernels that it captured.
    with float32_products(device, 32):
        turns = {
            name: Members(sweep, compiled=False, device=device, steps=steps)
            for name, sweep in (("many", many), ("one", _ONE))
        }
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(rounds + 1):
            for name, members in turns.items():
                started_at = time.perf_counter()
                members.run_round()
                seconds[name].append(time.perf_counter() - started_at)
    medians = {f"{name}_seconds": statistics.median(values[1:]) for name, values in seconds.items()}
    ratio = medians["many_seconds"] / medians["one_seconds"]
    facts = {"members": many.members, "rounds": rounds, "at_most": _ON_GPU, "ratio": ratio}
    facts["steps"] = turns["one"].steps
    return facts | medians | {"passed": ratio <= _ON_GPU}


def _steps(workload: Workload, bare: BareLoop) -> int:
    return -(-len(bare.images) // workload.batch_size)


def show(rows: list[Row]) -> None:
    table = Table(title="Processor time per step of a member, µs; target: compiled population over bare loop, medians")
    for name in ("workload", "members", "bare loop", "eager", "× bare", "compiled", "× bare", "bar", ""):
        table.add_column(name, justify="right")
    for row in rows:
        medians = {name: statistics.median(getattr(row, name)) for name in ("bare", "eager", "compiled")}
        table.add_row(
            f"({row.key})", str(row.members), f"{medians['bare']:.1f}", f"{medians['eager']:.1f}",
            f"{row.ratio(row.eager):.3f}", f"{medians['compiled']:.1f}", f"{row.ratio(row.compiled):.3f}",
            f"{row.bar:.2f}", "reached" if row.passed else "missed",
        )  # fmt: skip
    wide_console().print(table)


if __name__ == "__main__":
    sys.exit(main())
