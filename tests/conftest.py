"""Fixtures of all tests: the real configuration made small, run folders, the command as users run it, and real data."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from digitlab import cli
from digitlab.config import ROOT, compose

Digitlab = Callable[..., tuple[int, str, str]]

# More threads than cores make small networks slow, and the suite runs in several processes.
torch.set_num_threads(1)

_SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
)


@pytest.fixture
def shrunk() -> Callable[..., DictConfig]:
    """``shrunk("model=lenet", ...)`` is what the command would run on the CPU, cut to a few mini-batches."""

    def compose_small(*overrides: str) -> DictConfig:
        return compose([*_SMALL, *overrides])

    return compose_small


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Where a run of the test may write; not yet made."""
    return tmp_path / "run"


@pytest.fixture
def train_py(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``train_py("model=mlp", ...)`` runs the script as a process in ``cwd`` (default ``tmp_path``) until it ends."""

    def run(
        *arguments: str, cwd: Path = tmp_path, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        variables = {"OMP_NUM_THREADS": "1"} | dict(os.environ) | (environment or {})
        return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def one_line() -> Callable[[str], bool]:
    """``one_line(text)``: is it what a user should see of an error, one line and no traceback?"""
    return lambda text: len(text.strip().splitlines()) == 1 and "Traceback" not in text


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real Fashion-MNIST and CIFAR-10; without it the test is skipped (MNIST is in the package)."""
    root = Path(os.environ.get("DIGITLAB_DATA", ROOT / "data"))
    missing = [name for name in ("FashionMNIST/raw", "cifar-10-batches-py") if not (root / name).is_dir()]
    if missing:
        pytest.skip(f"data/ is not laid out: no {' and no '.join(missing)} in {root}")
    return root


@pytest.fixture
def digitlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Digitlab:
    """Runs the command; returns exit code, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["digitlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return command
