"""``experiment=cifar10_94`` on a GPU: accuracy, and time beside the script that ``--reference`` names.

The script (airbench94_muon.py by Keller Jordan, 2024) is not part of this project. Without the files of CIFAR-10 both
train on random images: then only their times mean anything, and the accuracies are null.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from digitlab.config.compose import compose
from digitlab.training import run as run_module
from digitlab.training.experiment import Experiment
from gpu_checks.images import use_images
from gpu_checks.registry import Context, Group, Measured, NotRun, replaced, require
from gpu_checks.speed import accuracies

GROUP = Group()

_RUNS = 5
# A small network on a few images. In bf16, most processors take ten times as long for a convolution.
_QUICK = (
    "data.train_size=200", "data.batch_size=100", "trainer.max_epochs=2", "model.widths=[8,8,8]",
    "trainer.precision=32",
)  # fmt: skip


def _timed(name: str, seconds: list[float]) -> tuple[Any, str, Any]:
    """What ``replaced`` needs so that the seconds of each call of a function of the run are appended."""
    function = getattr(run_module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        started_at = time.perf_counter()
        result = function(*arguments, **named)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started_at)
        return result

    return run_module, name, call


def _measured(context: Context, how: str, *more: str) -> Measured:
    """Accuracies and seconds of the runs after a warm-up: whitening, training and test, without compiling.

    Compiling and capturing are no part of a run's ``train_seconds``.
    """
    runs = []
    for seed in range(1 if context.quick else 1 + _RUNS):
        whitening: list[float] = []
        testing: list[float] = []
        with replaced(_timed("initial_classifier", whitening), _timed("measure_test", testing)):
            own = accuracies(context, "cifar10_94", seed, *(_QUICK if context.quick else ()), *more)
        # accuracies() evaluates once more without test-time augmentation, but not by the function of the run.
        runs.append(own | {"whitening_seconds": whitening[0], "test_seconds": testing[0]})
    # A quick check measures nothing, so it has no warm-up.
    return _summary(context, how, runs if context.quick else runs[1:])


def _summary(context: Context, how: str, runs: list[Measured]) -> Measured:
    real, reference = use_images(quick=context.quick), _reference(context)
    totals = [run["whitening_seconds"] + run["train_seconds"] + run["test_seconds"] for run in runs]
    seconds = statistics.median(totals)
    mean = statistics.mean(run["with_tta"] for run in runs) if real else None
    return {
        "n": len(runs),
        "mean_with_tta": mean,
        "mean_without_tta": statistics.mean(run["without_tta"] for run in runs) if real else None,
        "median_seconds": seconds,
        **{name: statistics.median(run[name] for run in runs) for name in _PARTS},
        "reference": reference,
        "targets": {
            f"cifar10_94 {how}: mean test accuracy": mean,
            f"cifar10_94 {how} over the reference": None
            if reference is None
            else seconds / reference["median_seconds"],
        },
    }


_PARTS = ("whitening_seconds", "train_seconds", "test_seconds", "wall_seconds")


@GROUP.check("the reference script runs on the same images")
def reference(context: Context) -> Measured:
    """Run the script in a process of its own, and keep its seconds and accuracies for the checks below."""
    context.require_cuda()
    if context.reference is None:
        raise NotRun("--reference names no script")
    folder = context.folder / "reference"
    (folder / "cifar10").mkdir(parents=True, exist_ok=True)
    data = Experiment.from_config(compose(["data=cifar10"]), typed=()).data
    for name, images in zip(("train", "test"), data.source.read(data.root), strict=True):
        content = {
            "images": images.images.permute(0, 2, 3, 1).contiguous(), "labels": images.labels,
            "classes": list(range(10)),
        }  # fmt: skip
        torch.save(content, folder / "cifar10" / f"{name}.pt")
    ended = subprocess.run(
        [sys.executable, "-m", "gpu_checks.reference", str(context.reference), str(_RUNS)],
        cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    require(ended.returncode == 0, f"the reference ended with {ended.returncode}: {ended.stderr[-500:]}")
    measured: Measured = json.loads(ended.stdout.splitlines()[-1])
    accuracies = measured.pop("accuracies")
    mean = statistics.mean(accuracies) if use_images(quick=context.quick) else None
    _reference_file(context).write_text(json.dumps(measured | {"mean_accuracy": mean}), encoding="utf-8")
    return measured | {"mean_accuracy": mean}


def _reference_file(context: Context) -> Path:
    """What the check above measured. The file remains if a later check ends the process of the group."""
    return context.folder / "reference.json"


def _reference(context: Context) -> Measured | None:
    path = _reference_file(context)
    if not path.exists():
        return None
    measured: Measured = json.loads(path.read_text(encoding="utf-8"))
    return measured


@GROUP.check("cifar10_94, captured: accuracy, and time beside the reference")
def captured(context: Context) -> Measured:
    return _measured(context, "captured")


@GROUP.check("cifar10_94, compiled: accuracy, and time beside the reference")
def compiled(context: Context) -> Measured:
    context.require_time()
    return _measured(context, "compiled", "compile=true")
