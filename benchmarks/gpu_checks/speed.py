"""Speed on a GPU: workloads (a) to (e) in alternating rounds, 256 members against one, and ``experiment=mnist_99``.

Every row computes float32 products in TF32, so that the rows differ only in how their steps are executed.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import DeviceType

import digitlab
import members
from bare import BareLoop, GraphLoop
from bench import digitlab_seconds
from digitlab.data import ImageData
from digitlab.data.chunks import Chunk
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.training.evaluation import evaluate
from digitlab.training.loading import load_classifier, load_data, open_run
from gpu_checks.registry import Context, Group, Measured, replaced, require
from gpu_checks.runs import counted_replays, start_command, warnings_of
from sweeps import Sweep
from workloads import WORKLOADS, Workload, training_split, workload_by_key

GROUP = Group()

_ROUNDS = 3
# For the processes that compile: they need no images of CIFAR-10 either.
_WITH_IMAGES = "from gpu_checks.images import use_images; use_images(quick=False)"
_COMPILE_SECONDS = 120.0


def _workload(context: Context, key: str) -> Workload:
    workload = workload_by_key(key)
    if not context.quick:
        return workload
    # For one call of eight updates, two of one update, and a smaller mini-batch at the end.
    return replace(workload, batch_size=16, train_size=10 * 16 + 5, epochs=2)


@GROUP.check("the libraries of all workloads compile")
def libraries(context: Context) -> Measured:
    context.require_time()
    started_at = time.perf_counter()
    processes = {
        workload.key: start_command(
            *workload.overrides(), "trainer=gpu", "trainer.max_epochs=1", "trainer.limit_train_batches=16", "test=none",
            "compile=true", "trainer.progress_bar=false", f"hydra.run.dir={context.folder}/library-{workload.key}",
            before=_WITH_IMAGES,
        )
        for workload in WORKLOADS
    }  # fmt: skip
    try:
        codes = {
            key: process.wait(_COMPILE_SECONDS - (time.perf_counter() - started_at))
            for key, process in processes.items()
        }
    finally:
        # What is still compiling must not disturb the measurements.
        for process in processes.values():
            process.kill()
    require(not any(codes.values()), f"exit codes {codes}")
    return {"processes": len(codes), "cores": os.cpu_count(), "seconds": time.perf_counter() - started_at}


def _rows(workload: Workload, context: Context) -> dict[str, Callable[[], list[float]]]:
    """What takes turns: each returns the seconds of its epochs."""
    split, channels_last = training_split(workload), not workload.hidden

    def digit(own: list[str]) -> list[float]:
        few = ["data.val_size=100"] if context.quick else []
        return digitlab_seconds(workload, context.device, [*own, "test=none", *few])

    rows: dict[str, Callable[[], list[float]]] = {
        "bare": BareLoop(workload, split, context.device).epoch_seconds,
        "graph": GraphLoop(workload, split, context.device, channels_last=channels_last).epoch_seconds,
        "eager": partial(digit, ["trainer.cuda_graphs=false"]),
        "captured": partial(digit, ["trainer.cuda_graphs=true"]),
    }
    if not context.quick:
        rows["compiled"] = partial(digit, ["trainer.cuda_graphs=true", "compile=true"])
    return rows


def _epochs(context: Context, *, key: str) -> Measured:
    if key != "a":
        context.require_time()
    rows = _rows(_workload(context, key), context)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    with counted_replays(context) as replays, warnings_of("digitlab") as messages:
        for _ in range(1 if context.quick else _ROUNDS):
            for name, row in rows.items():
                # The first epoch warms up.
                seconds[name] += row()[1:]
    require(len(replays) > 0 and not messages, f"{len(replays)} replays, warnings: {messages}")
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    return {f"{name}_seconds": value for name, value in medians.items()} | {"targets": _ratios(key, medians)}


def _ratios(key: str, medians: dict[str, float]) -> dict[str, float | None]:
    compiled = medians.get("compiled")
    ratios: dict[str, float | None] = {
        f"({key}) captured over hand-written graph": medians["captured"] / medians["graph"],
        f"({key}) compiled over hand-written graph": None if compiled is None else compiled / medians["graph"],
    }
    if key in ("a", "c", "d"):
        ratios[f"({key}) captured over bare loop"] = medians["captured"] / medians["bare"]
    return ratios


for _key in ("a", "c", "d", "b", "e"):
    GROUP.add(f"seconds per epoch of workload ({_key})", partial(_epochs, key=_key))


@GROUP.check("256 members of (a) against one")
def many_members(context: Context) -> Measured:
    if context.quick:
        two = Sweep(key="a", grid=("seed=0,1",), members=2, epochs=1, bar=0.0)
        measured = members.measure_on(context.device, rounds=1, many=two, steps=16)
    else:
        measured = members.measure_on(context.device, rounds=_ROUNDS)
    return measured | {"targets": {"256 members of (a) over one": measured["ratio"]}}


@cache
def _test_data(folder: Path, *, quick: bool) -> ImageData:
    """The data set of the run in ``folder``, which other runs of the same experiment can share."""
    data = load_data(open_run(folder))
    data.limit_test_batches = 2 if quick else None
    return data


def accuracies(context: Context, experiment: str, seed: int, *more: str) -> Measured:
    """Test accuracy of a full run of ``experiment`` with and without test-time augmentation, and its seconds."""
    place = "trainer=gpu" if context.cuda else "trainer=cpu"
    given = [f"experiment={experiment}", place, f"seed={seed}", "trainer.progress_bar=false", *more]
    started_at = time.perf_counter()
    run = digitlab.train(*given, folder=context.folder / f"{experiment}-{seed}-{len(more)}")
    wall_seconds = time.perf_counter() - started_at
    model = load_classifier(open_run(run.path), "last")
    model.tta = None
    data = _test_data(context.folder / f"{experiment}-0-{len(more)}", quick=context.quick)
    plain = evaluate(model, data, accelerator=context.accelerator)["test/accuracy"]
    return {
        "with_tta": run.metrics["test/accuracy"], "without_tta": plain,
        "train_seconds": run.result["train_seconds"], "wall_seconds": wall_seconds,
    }  # fmt: skip


@GROUP.check("mnist_99: mean test accuracy of four runs")
def mnist_99(context: Context) -> Measured:
    # In bf16, most processors take ten times as long for a convolution.
    few = ["data.train_size=500", "data.batch_size=50", "trainer.limit_test_batches=2", "trainer.precision=32"]
    quick = few if context.quick else []
    runs = [accuracies(context, "mnist_99", seed, *quick) for seed in range(1 if context.quick else 4)]
    mean = statistics.mean(each["with_tta"] for each in runs)
    return {
        "mean_with_tta": mean,
        "mean_without_tta": statistics.mean(each["without_tta"] for each in runs),
        "n": len(runs),
        "targets": {"mnist_99 mean test accuracy": mean},
    }


@GROUP.check("profile: the kernels that take the most time in captured updates of (a)")
def profile(context: Context) -> Measured:
    """Profile the second chunk alone: the first one captures the updates, and evaluations have kernels of their own."""
    kind = torch.profiler.ProfilerActivity.CUDA if context.cuda else torch.profiler.ProfilerActivity.CPU
    profiler, run_chunk, steps = torch.profiler.profile(activities=[kind]), ChunkRunner._run_chunk, list[int]()

    def second_profiled(runner: ChunkRunner, chunk: Chunk, **named: Any) -> Any:
        steps.append(len(chunk.indices))
        if len(steps) != 2:
            return run_chunk(runner, chunk, **named)
        wait = torch.cuda.synchronize if context.cuda else contextlib.nullcontext
        wait()
        with profiler:
            results = run_chunk(runner, chunk, **named)
            wait()
        return results

    with replaced((ChunkRunner, "_run_chunk", second_profiled)), counted_replays(context):
        digitlab_seconds(replace(_workload(context, "a"), epochs=2), context.device, ["test=none"])
    # With CUDA's own events come those of the calls that launch them.
    device = DeviceType.CUDA if context.cuda else DeviceType.CPU
    events = [event for event in profiler.key_averages() if event.device_type == device]
    events.sort(key=lambda event: -event.self_device_time_total)
    require(bool(events), "the profiler saw no kernel")
    return {
        "kernels_per_step": sum(event.count for event in events) / steps[1],
        "top": [
            f"{event.key[:80]}: {event.self_device_time_total / 1e3:.1f} ms, {event.count} calls"
            for event in events[:15]
        ],
    }


@GROUP.check("batch norm of cifar10_94 forward and backward, by the type of its input")
def batch_norm(context: Context) -> Measured:
    """PyTorch has no cuDNN kernel for bfloat16 here, and takes a kernel of its own; this measures the difference."""
    images, channels = (20, 8) if context.quick else (2000, 256)
    return {
        f"{str(dtype).rpartition('.')[2]}_ms": 1e3 * _norm_seconds(context, (images, channels, 7, 7), dtype)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    }


def _norm_seconds(context: Context, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    inputs = torch.randn(shape, device=context.device).to(dtype).contiguous(memory_format=torch.channels_last)
    inputs.requires_grad_()
    scale, shift, mean, variance = (torch.ones(shape[1], device=context.device) for _ in range(4))
    shift.requires_grad_()
    gradient = torch.ones_like(inputs)

    def step() -> None:
        outputs = F.batch_norm(inputs, mean, variance, scale, shift, training=True)
        torch.autograd.grad(outputs, (inputs, shift), gradient)

    wait = torch.cuda.synchronize if context.cuda else contextlib.nullcontext
    for _ in range(3):
        step()
    wait()
    started_at, repetitions = time.perf_counter(), 2 if context.quick else 50
    for _ in range(repetitions):
        step()
    wait()
    return (time.perf_counter() - started_at) / repetitions
