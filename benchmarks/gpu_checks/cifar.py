"""``experiment=cifar10_94`` on a GPU: accuracy, and time beside the script that ``--reference`` names.

The script (airbench94_muon.py by Keller Jordan, 2024) is not part of this project. Without the files of CIFAR-10 both
train on random images: then only their times mean anything, and the accuracies are null.
"""

import contextlib
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from digitlab.config.compose import compose
from digitlab.core.errors import DataError
from digitlab.data import sources
from digitlab.data.source import ImageSet
from digitlab.training import run as run_module
from digitlab.training.experiment import Experiment
from gpu_checks.registry import Context, Group, Measured, NotRun, replaced, require
from gpu_checks.speed import accuracies

GROUP = Group()

_RUNS = 5
_TARGET_ACCURACY, _TARGET_TIME = 0.94, 1.0


@cache
def _files_are_here() -> bool:
    data = Experiment.from_config(compose(["data=cifar10"]), typed=()).data
    try:
        data.source.read(Path(data.root))
    except (DataError, OSError):
        return False
    return True


def _random_images() -> tuple[ImageSet, ImageSet]:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> ImageSet:
        pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(count) % 10)

    return images(50_000), images(10_000)


@contextlib.contextmanager
def _images() -> Iterator[bool]:
    """Within, CIFAR-10 can be read; yields whether its images are real."""
    if _files_are_here():
        yield True
        return
    random = _random_images()
    source = sources.Cifar10Source
    with replaced((source, "prepare", lambda self, root: None), (source, "read", lambda self, root: random)):
        yield False


def _seconds(context: Context, *more: str) -> tuple[list[Measured], bool]:
    """Accuracies and seconds of the runs: whitening, training and test, without capturing or compiling.

    The first epoch captures or compiles, so the training time is that of the other epochs, scaled to all of them.
    """
    runs = []
    fitting: list[float] = []
    fit = run_module.initial_classifier

    def timed_fit(*arguments: Any, **named: Any) -> Any:
        started_at = time.perf_counter()
        classifier = fit(*arguments, **named)
        fitting.append(time.perf_counter() - started_at)
        return classifier

    with _images() as real, replaced((run_module, "initial_classifier", timed_fit)):
        for seed in range(1 if context.quick else _RUNS):
            quick = ["data.train_size=4000", "trainer.max_epochs=2"] if context.quick else []
            own = accuracies(context, "cifar10_94", seed, *quick, *more)
            runs.append(own | {"whitening_seconds": fitting[-1]})
    return runs, real


def _summary(runs: list[Measured], *, real: bool) -> Measured:
    return {
        "n": len(runs),
        "mean_with_tta": statistics.mean(run["with_tta"] for run in runs) if real else None,
        "mean_without_tta": statistics.mean(run["without_tta"] for run in runs) if real else None,
        "median_seconds": statistics.median(run["train_seconds"] + run["whitening_seconds"] for run in runs),
    }


def _reference_seconds(path: Path, folder: Path) -> Measured:
    """Seconds and accuracies of the reference script's runs, after its own warm-up."""
    with _images() as real:
        data = Experiment.from_config(compose(["data=cifar10"]), typed=()).data
        train, test = data.source.read(Path(data.root))
    (folder / "cifar10").mkdir(parents=True)
    for name, images in (("train", train), ("test", test)):
        content = {
            "images": images.images.permute(0, 2, 3, 1).contiguous(),
            "labels": images.labels,
            "classes": list(range(10)),
        }
        torch.save(content, folder / "cifar10" / f"{name}.pt")
    spec = importlib.util.spec_from_file_location("airbench_reference", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    before, arguments = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = [str(path)]
    try:
        spec.loader.exec_module(module)
        model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
        model.compile(mode="max-autotune")
        module.main("warmup", model)
        seconds, accuracy = [], []
        for run in range(_RUNS):
            torch.cuda.synchronize()
            started_at = time.perf_counter()
            accuracy.append(float(module.main(run, model)))
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started_at)
    finally:
        os.chdir(before)
        sys.argv = arguments
    return {"median_seconds": statistics.median(seconds), "mean_accuracy": statistics.mean(accuracy) if real else None}


def _judge(measured: Measured, reference: Measured | None) -> None:
    accuracy = measured["mean_with_tta"]
    require(accuracy is None or accuracy >= _TARGET_ACCURACY, f"mean accuracy {accuracy} is below {_TARGET_ACCURACY}")
    if reference is not None:
        ratio = measured["median_seconds"] / reference["median_seconds"]
        require(ratio <= _TARGET_TIME, f"takes {ratio:.2f} of the reference's time; {measured}; reference {reference}")


@cache
def _reference(context: Context) -> Measured | None:
    if context.reference is None or not context.cuda:
        return None
    return _reference_seconds(context.reference, context.folder / "reference")


@GROUP.check("cifar10_94, captured: accuracy, and time beside the reference")
def captured(context: Context) -> Measured:
    runs, real = _seconds(context)
    measured = _summary(runs, real=real)
    reference = _reference(context)
    if context.cuda and not context.quick:
        _judge(measured, reference)
    return measured | {"reference": reference}


@GROUP.check("cifar10_94, compiled: accuracy, and time beside the reference")
def compiled(context: Context) -> Measured:
    if context.quick:
        raise NotRun("left out of a quick check")
    runs, real = _seconds(context, "compile=true")
    measured = _summary(runs, real=real)
    reference = _reference(context)
    if context.cuda:
        _judge(measured, reference)
    return measured | {"reference": reference}
