"""Short real runs and comparisons of what they leave, for all groups of ``gpu_check.py``."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digitlab.config.compose import compose
from digitlab.engine import cuda_graph
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import train
from gpu_checks.registry import Context, replaced

PROJECT = Path(__file__).resolve().parents[2]
# A run of a second or two. Nothing that is switched off here depends on the device.
SHORT = (
    "data.train_size=1280", "data.val_size=200", "data.batch_size=32", "trainer.max_epochs=2", "early_stopping=null",
    "trainer.progress_bar=false", "test=none",
)  # fmt: skip
# The same with a few mini-batches: two calls of eight updates and one of a single update in each epoch.
_QUICK = ("data.train_size=272", "data.batch_size=16", "data.val_size=100")
_PATHS = os.pathsep.join([str(PROJECT / "src"), str(PROJECT / "benchmarks")])


def overrides_for(context: Context, overrides: Sequence[str], *, device: torch.device | None = None) -> list[str]:
    """The overrides of a short run on ``device``, by default that of the checks; later ones win."""
    place = "trainer=gpu" if (device or context.device).type == "cuda" else "trainer=cpu"
    given = (place, *SHORT, *(_QUICK if context.quick else ()), *overrides)
    return list({override.partition("=")[0]: override for override in given}.values())


def run(context: Context, name: str, *overrides: str, device: torch.device | None = None) -> RunFolder:
    """Train in this process and return the run's folder; an earlier run of this ``name`` is continued."""
    given = overrides_for(context, overrides, device=device)
    folder, config = RunFolder(context.folder / name), compose(given)
    folder.write_config(config, given)  # digitlab.load reads it
    train(config, folder=folder.path, overrides=given, resume=folder.last.exists())
    return folder


def weights(folder: RunFolder) -> dict[str, Tensor]:
    """The weights and buffers of the run's last checkpoint, on the CPU."""
    state: dict[str, Tensor] = read_checkpoint(folder.last)["state_dict"]
    return {name: tensor.cpu() for name, tensor in state.items()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any entry, relative to the largest entry of its tensor (or to 1 if that is smaller)."""
    if one.keys() != other.keys():
        return float("inf")
    largest = 0.0
    for name, tensor in other.items():
        if not tensor.is_floating_point():
            continue
        distance = (one[name].double() - tensor.double()).abs().max().item()
        scale = max(1.0, tensor.abs().max().item())
        largest = max(largest, distance / scale if distance == distance else float("inf"))
    return largest


def _stand_in(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """What replaces a CUDA graph in a dry run: a replay computes the work again, into the same tensors."""
    results = work()

    def replay() -> None:
        for result, new in zip(results, work(), strict=True):
            result.copy_(new)

    return replay, results


@contextmanager
def counted_replays(context: Context, *, stand_in: cuda_graph.GraphCapture = _stand_in) -> Iterator[list[int]]:
    """Within, calls of captured graphs are counted (one entry per call); in a dry run ``stand_in`` captures."""
    replays: list[int] = []
    call, capture_for = cuda_graph.CudaGraph.__call__, cuda_graph.graph_capture_for

    def counted(graph: Any, given: list[Tensor]) -> list[Tensor]:
        replays.append(1)
        return call(graph, given)

    targets: list[tuple[Any, str, Any]] = [(cuda_graph.CudaGraph, "__call__", counted)]
    if not context.cuda:
        for module in list(sys.modules.values()):
            if getattr(module, "graph_capture_for", None) is capture_for:
                targets.append((module, "graph_capture_for", lambda device, *, allowed: stand_in if allowed else None))
    with replaced(*targets):
        yield replays


def stopping(cls: type, name: str, *, at: int) -> tuple[type, str, Any]:
    """What ``replaced`` needs so that SIGTERM arrives in the call number ``at`` of a method."""
    method, calls = getattr(cls, name), []

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return method(*arguments, **named)

    return cls, name, call


def without_waiting(calls: dict[str, int], *targets: tuple[type, str]) -> list[tuple[type, str, Any]]:
    """What ``replaced`` needs so that the methods ``targets`` raise an error if the host waits for the device.

    The first call of each may wait, while it sets up. ``calls`` counts them.
    """

    def guarded(cls: type, name: str) -> Any:
        method = getattr(cls, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            if not torch.cuda.is_available():
                return method(*arguments, **named)
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("default" if calls[name] == 1 else "error")
            try:
                return method(*arguments, **named)
            finally:
                torch.cuda.set_sync_debug_mode(before)

        return call

    return [(cls, name, guarded(cls, name)) for cls, name in targets]


@contextmanager
def warnings_of(*names: str) -> Iterator[list[str]]:
    """Within, the messages that the loggers ``names`` log as warnings or worse are collected."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Collector(logging.WARNING)
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield found
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def command(*arguments: str, before: str = "", timeout_seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
    """``python train.py ARGUMENTS`` in a process of its own; ``before`` is Python code to run first in it."""
    return subprocess.run(
        _python(arguments, before), cwd=PROJECT, env=os.environ | {"PYTHONPATH": _PATHS}, capture_output=True,
        text=True, timeout=timeout_seconds, check=False,
    )  # fmt: skip


def start_command(*arguments: str, before: str = "") -> "subprocess.Popen[bytes]":
    """The same in the background, without its output."""
    return subprocess.Popen(
        _python(arguments, before), cwd=PROJECT, env=os.environ | {"PYTHONPATH": _PATHS},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _python(arguments: Sequence[str], before: str) -> list[str]:
    code = f"import runpy, sys\n{before}\nsys.argv[0] = 'train.py'\nrunpy.run_path('train.py', run_name='__main__')"
    return [sys.executable, "-c", code, *arguments]
