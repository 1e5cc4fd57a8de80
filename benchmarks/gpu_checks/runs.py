"""Short real runs and comparisons of what they leave, for all groups of ``gpu_check.py``."""

import logging
import os
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
from digitlab.population import trainer as population_trainer
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import classifier as classifier_module
from digitlab.training import train
from gpu_checks.registry import Context, replaced

PROJECT = Path(__file__).resolve().parents[2]
# A run of a second or two. Nothing that is switched off here depends on the device.
SHORT = (
    "data.train_size=1280", "data.val_size=200", "data.batch_size=32", "trainer.max_epochs=2", "early_stopping=null",
    "trainer.progress_bar=false", "test=none",
)  # fmt: skip


def overrides_for(device: torch.device, overrides: Sequence[str]) -> list[str]:
    """The overrides of a short run on ``device``; later ones win."""
    place = "trainer=gpu" if device.type == "cuda" else "trainer=cpu"
    by_key = {override.partition("=")[0]: override for override in (place, *SHORT, *overrides)}
    return list(by_key.values())


def run(context: Context, name: str, *overrides: str, device: torch.device | None = None) -> RunFolder:
    """Train in this process and return the run's folder; an earlier run of this ``name`` is continued."""
    given = overrides_for(device or context.device, overrides)
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
def counted_replays(context: Context) -> Iterator[list[int]]:
    """Within, calls of captured graphs are counted (one entry per call); in a dry run a stand-in captures."""
    replays: list[int] = []
    call = cuda_graph.CudaGraph.__call__

    def counted(graph: Any, given: list[Tensor]) -> list[Tensor]:
        replays.append(1)
        return call(graph, given)

    targets: list[tuple[Any, str, Any]] = [(cuda_graph.CudaGraph, "__call__", counted)]
    if not context.cuda:
        for module in (classifier_module, population_trainer):
            targets.append((module, "graph_capture_for", lambda device, *, allowed: _stand_in if allowed else None))
    with replaced(*targets):
        yield replays


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


def command(
    context: Context, *arguments: str, before: str = "", timeout_seconds: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """``python train.py ARGUMENTS`` in a process of its own; ``before`` is Python code to run first in it."""
    code = f"import runpy, sys; {before}\nsys.argv[0] = 'train.py'\nrunpy.run_path('train.py', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT / "benchmarks")])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=timeout_seconds, check=False,
    )  # fmt: skip
