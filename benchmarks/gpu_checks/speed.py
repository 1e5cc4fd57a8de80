"""Speed on a GPU: workloads (a) to (e) in alternating rounds, 256 members against one, and ``experiment=mnist_99``.

Every row computes float32 products in TF32, so that the rows differ only in how their steps are executed.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

import digitlab
from bare import BareLoop, GraphLoop
from bench import digitlab_seconds
from digitlab.training.evaluation import evaluate
from gpu_checks.registry import Context, Group, Measured, NotRun, require, within
from gpu_checks.runs import PROJECT
from workloads import WORKLOADS, Workload, training_split

GROUP = Group()

_ROUNDS = 3
# Captured updates may take this share of the bare loop's time in these rows.
_CAPTURED_OF_BARE, _JUDGED_ROWS = 1 / 3, ("a", "c", "d")
# Captured and compiled updates, relative to a hand-written loop over CUDA graphs.
_CAPTURED_OF_GRAPH, _COMPILED_OF_GRAPH = 1.10, 1.0


def _rows(workload: Workload, context: Context) -> dict[str, Callable[[], list[float]]]:
    """What takes turns: each returns the seconds of its epochs."""
    split = training_split(workload)
    digit = partial(digitlab_seconds, workload, context.device)
    rows: dict[str, Callable[[], list[float]]] = {
        "bare": BareLoop(workload, split, context.device).epoch_seconds,
        "eager": partial(digit, ["trainer.cuda_graphs=false"]),
    }
    if context.cuda:
        rows["graph"] = GraphLoop(workload, split, context.device, channels_last=not workload.hidden).epoch_seconds
        rows["captured"] = partial(digit, ["trainer.cuda_graphs=true"])
        rows["compiled"] = partial(digit, ["trainer.cuda_graphs=true", "compile=true"])
    return rows


def _workload(context: Context, *, key: str) -> Measured:
    workload = next(each for each in WORKLOADS if each.key == key)
    if context.quick:
        if key != "a":
            raise NotRun("left out of a quick check")
        workload = replace(workload, train_size=20 * workload.batch_size, epochs=2)
    rows = _rows(workload, context)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(1 if context.quick else _ROUNDS):
        for name, row in rows.items():
            seconds[name] += row()[1:]  # the first epoch warms up, captures or compiles
    medians = {f"{name}_seconds": statistics.median(own) for name, own in seconds.items()}
    if context.cuda:
        _judge(key, medians)
    return dict(medians)


def _judge(key: str, medians: Measured) -> None:
    bare, graph = medians["bare_seconds"], medians["graph_seconds"]
    captured, compiled = medians["captured_seconds"], medians["compiled_seconds"]
    medians |= {
        "captured_of_bare": captured / bare, "captured_of_graph": captured / graph,
        "compiled_of_graph": compiled / graph,
    }  # fmt: skip
    missed = []
    if key in _JUDGED_ROWS and captured > _CAPTURED_OF_BARE * bare:
        missed.append(f"captured takes {captured / bare:.2f} of the bare loop (target {_CAPTURED_OF_BARE:.2f})")
    if captured > _CAPTURED_OF_GRAPH * graph:
        missed.append(f"captured takes {captured / graph:.2f} of the graph loop (target {_CAPTURED_OF_GRAPH})")
    if compiled > _COMPILED_OF_GRAPH * graph:
        missed.append(f"compiled takes {compiled / graph:.2f} of the graph loop (target {_COMPILED_OF_GRAPH})")
    require(not missed, f"{'; '.join(missed)}; measured {medians}")


for _key in (workload.key for workload in WORKLOADS):
    GROUP.add(f"seconds per epoch of workload ({_key})", partial(_workload, key=_key))


@GROUP.check("256 members of (a) take at most 4 times as long as one")
def members(context: Context) -> Measured:
    context.require_cuda()
    ended = subprocess.run(
        [sys.executable, "benchmarks/members.py"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    require(ended.returncode == 0, (ended.stdout + ended.stderr)[-800:])
    return {"table": ended.stdout[-800:]}


def accuracies(context: Context, experiment: str, seed: int, *more: str) -> Measured:
    """Test accuracy of a full run of ``experiment`` with and without test-time augmentation, and its seconds."""
    place = "trainer=gpu" if context.cuda else "trainer=cpu"
    given = [f"experiment={experiment}", place, f"seed={seed}", "trainer.progress_bar=false", *more]
    started_at = time.perf_counter()
    run = digitlab.train(*given, folder=context.folder / f"{experiment}-{seed}-{len(more)}")
    wall_seconds = time.perf_counter() - started_at
    model, data = digitlab.load(run.path)
    model.tta = None
    plain = evaluate(model, data)["test/accuracy"]
    return {
        "with_tta": run.metrics["test/accuracy"], "without_tta": plain,
        "train_seconds": run.result["train_seconds"], "wall_seconds": wall_seconds,
    }  # fmt: skip


@GROUP.check("mnist_99 reaches 99.0 % on average")
def mnist_99(context: Context) -> Measured:
    quick = ["data.train_size=1000"] if context.quick else []
    runs = [accuracies(context, "mnist_99", seed, *quick) for seed in range(1 if context.quick else 4)]
    mean = statistics.mean(each["with_tta"] for each in runs)
    if not context.quick:
        within(0.990, mean, "99.0 %, compared with the mean test accuracy")
    return {
        "mean_with_tta": mean,
        "mean_without_tta": statistics.mean(each["without_tta"] for each in runs),
        "n": len(runs),
    }


@GROUP.check("profile: the kernels that take the most time in captured updates of (a)")
def profile(context: Context) -> Measured:
    context.require_cuda()
    workload = next(each for each in WORKLOADS if each.key == "a")
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        digitlab_seconds(workload, context.device, ["trainer.max_epochs=2"])
    events = sorted(profiler.key_averages(), key=lambda event: -event.device_time_total)
    steps = 2 * (55_000 // workload.batch_size)
    return {
        "kernels_per_step": sum(event.count for event in events) / steps,
        "top": [
            f"{event.key[:80]}: {event.device_time_total / 1e3:.1f} ms, {event.count} calls" for event in events[:15]
        ],
    }
