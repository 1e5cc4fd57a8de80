"""Sweeps run by the real command on small data, and sweeps whose folders are written by hand."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import ROOT, compose
from digitlab.sweeps.manifest import add_jobs, create
from digitlab.sweeps.state import SweepRun, read_runs

SMALL = (
    "trainer=cpu", "model=linear", "data.train_size=256", "data.val_size=200", "trainer.max_epochs=2",
    "trainer.limit_test_batches=2",
)  # fmt: skip


_FILE_EVENTS = ("open", "os.rename", "os.link")


@pytest.fixture(scope="session")
def kill_when(train_py_here: Callable[..., None]) -> Callable[..., None]:
    """``kill_when(command, folder, pattern)`` starts a sweep in a child and kills it once a file matches ``pattern``.

    The child dies when it next opens, renames or links a file, so the moment is the same on every machine.
    """

    def sweep(words: Sequence[str], folder: Path, pattern: str) -> None:
        def die(event: str, _: object) -> None:
            if event in _FILE_EVENTS and next(folder.glob(pattern), None) is not None:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the child is killed
            sys.addaudithook(die)
            train_py_here(*words)
        finally:
            os._exit(0)

    def kill(command: Sequence[str], folder: Path, pattern: str) -> None:
        _, _, *words = command
        child = os.fork()
        if child == 0:
            sweep(words, folder, pattern)
        os.waitpid(child, 0)

    return kill


@pytest.fixture(scope="session")
def sweep_command() -> Callable[..., list[str]]:
    """``sweep_command("seed=0,1", folder=...)`` is a command that sweeps small runs; ``small=False`` adds nothing."""

    def command(*arguments: str, folder: Path, small: bool = True) -> list[str]:
        # An argument takes the place of a small one with its key: train.py prints a note about keys that are repeated.
        given = {each.partition("=")[0]: each for each in arguments}
        small_ones = {each.partition("=")[0]: each for each in SMALL if small}
        words = [given.get(key, each) for key, each in small_ones.items()]
        words += [each for each in arguments if each.partition("=")[0] not in small_ones]
        return [sys.executable, str(ROOT / "train.py"), "-m", *words, f"hydra.sweep.dir={folder}"]

    return command


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def sweep_py(sweep_command: Callable[..., list[str]], train_py: Command) -> Command:
    """``sweep_py(...)`` runs ``sweep_command(...)`` to its end, in a child as ``train_py`` does."""

    def run(*arguments: str, folder: Path, small: bool = True) -> subprocess.CompletedProcess[str]:
        _, _, *words = sweep_command(*arguments, folder=folder, small=small)
        return train_py(*words)

    return run


composed = cache(lambda overrides: compose(overrides))
Outcome = tuple[Sequence[str], Mapping[str, Any]]


@pytest.fixture
def written_sweep(tmp_path: Path) -> Callable[..., list[SweepRun]]:
    """``written_sweep((overrides, result), ...)`` writes the folder of a sweep by hand and reads its runs."""

    def write(*outcomes: Outcome, folder: Path = tmp_path / "sweep") -> list[SweepRun]:
        folder.mkdir(exist_ok=True)
        keys = {override.partition("=")[0] for overrides, _ in outcomes for override in overrides}
        create(folder, sorted(keys))
        for overrides, result in outcomes:
            config = composed(tuple(overrides))
            run = folder / add_jobs(folder, [(config, overrides)])[0]
            (run / ".hydra").mkdir(parents=True)
            OmegaConf.save(config, run / ".hydra" / "config.yaml")
            (run / ".hydra" / "hydra.yaml").write_text("")
            if result:
                (run / "result.json").write_text(json.dumps(result))
        return read_runs(folder)

    return write


@pytest.fixture
def finished() -> Callable[..., dict[str, Any]]:
    """``finished(0.9)`` is the ``result.json`` of a finished run with that validation accuracy."""

    def result(value: float, *, test: float = 0.5) -> dict[str, Any]:
        metrics = {"val/accuracy": value, "test/accuracy": test}
        return {
            "status": "finished", "metrics": metrics, "tested": {"checkpoint": "best", "epoch": 1}, "best_epoch": 1,
            "epochs": 2, "train_seconds": 1.0, "parameters": 10,
        }  # fmt: skip

    return result
