"""Run folders that the real writer fills without training."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from digitlab.config.compose import compose
from digitlab.results.folder import RunFolder
from digitlab.results.writer import RunWriter
from digitlab.training import train

EPOCHS = 4


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunFolder]:
    """``make_run(folder, "optimizer.lr=0.1", accuracy=0.9)`` writes a run of four epochs, without checkpoints.

    ``epochs=0``: a run that has just started. ``result=False``: an unfinished run. ``error``: a failed run.
    """

    def make(
        path: Path, *overrides: str, accuracy: float = 0.9, epochs: int = EPOCHS, result: bool = True, error: str = ""
    ) -> RunFolder:
        folder, config = RunFolder(path), compose(overrides)
        _write_configuration(folder, config, overrides)
        writer = RunWriter(folder, config={str(k): v for k, v in OmegaConf.to_container(config, resolve=True).items()})
        for epoch in range(1, epochs + 1):
            value = accuracy * (1 - math.exp(-epoch))
            row = {"epoch": epoch, "step": 100 * epoch, "lr": 0.1, "images_per_second": 1e4, "train_seconds": 1.5}
            writer.epoch(row | {f"{split}/{name}": v for split in ("train", "val") for name, v in _metrics(value)})
        if result:
            metrics = {f"{split}/{name}": v for split in ("val", "test") for name, v in _metrics(accuracy)}
            writer.confusion(torch.eye(10, dtype=torch.int64) * 90 + 1, [str(digit) for digit in range(10)])
            writer.result(_result(overrides, metrics=metrics, epochs=epochs, error=error), step=1)
        writer.close()
        return folder

    return make


def _write_configuration(folder: RunFolder, config: DictConfig, overrides: tuple[str, ...]) -> None:
    hydra = folder.config.parent
    hydra.mkdir(parents=True)
    OmegaConf.save(config, folder.config)
    OmegaConf.save(list(overrides), folder.overrides_file)
    names = {"data": "mnist", "model": "mlp"} | dict(override.split("=", 1) for override in overrides)
    choices = {group: names[group] for group in ("data", "model")}
    OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, hydra / "hydra.yaml")


def _metrics(accuracy: float) -> list[tuple[str, float]]:
    return [("accuracy", accuracy), ("loss", 2 * (1 - accuracy)), ("f1", accuracy - 0.01)]


def _result(overrides: tuple[str, ...], *, metrics: dict[str, float], epochs: int, error: str) -> dict[str, Any]:
    result = {
        "status": "failed" if error else "finished", "metrics": metrics, "best_epoch": epochs, "epochs": epochs,
        "train_seconds": 6.0, "images_per_second": 1e4, "parameters": 7850, "seed": 0,
        "split_fingerprint": "0123456789abcdef", "overrides": list(overrides),
        "command": " ".join(["python train.py", *overrides]), "versions": {"torch": torch.__version__},
        "git_commit": "0" * 40, "hardware": {"cpu": "a processor", "device": "cpu"},
    }  # fmt: skip
    return result | ({"error": error} if error else {})


@pytest.fixture(scope="session")
def hundred_runs(make_run: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 100 runs with random accuracies and learning rates; run 7 is unfinished."""
    root = tmp_path_factory.mktemp("hundred")
    first = make_run(root / "base", "seed=0", "optimizer.lr=0.5")
    result, order = first.read_result(), random.Random(0)
    for number in range(100):
        run = RunFolder(root / "sweep" / str(number))
        shutil.copytree(first.path, run.path, ignore=shutil.ignore_patterns("*tfevents*"))
        accuracy, rate = round(order.uniform(0.5, 0.99), 4), round(order.uniform(0.001, 1), 5)
        metrics = dict.fromkeys(result["metrics"], accuracy)
        run.result.write_text(json.dumps(result | {"metrics": metrics}))
        run.config.write_text(run.config.read_text().replace("lr: 0.5", f"lr: {rate}"))
        run.overrides_file.write_text(f"- seed={number}\n- optimizer.lr={rate}\n")
    RunFolder(root / "sweep" / "7").result.unlink()
    return root / "sweep"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear network that was trained on 500 images of MNIST and tested on some hundreds."""
    path = tmp_path_factory.mktemp("small") / "run"
    small = ["trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=2", "trainer.limit_test_batches=5"]
    overrides = ("model=linear", "data.train_size=500", "data.val_size=200")
    config = compose([*small, *overrides])
    _write_configuration(RunFolder(path), config, overrides)
    train(config, folder=path, overrides=overrides)
    return path
