"""The digitlab command run in this process, and a run for it to work on."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from digitlab import cli
from digitlab.config import compose
from digitlab.training import train

Digitlab = Callable[..., tuple[int, str, str]]

_TINY = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "data.train_size=500",
    "data.val_size=200",
    "trainer.limit_test_batches=5",
)


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


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """``make_run(folder, "model=linear", ...)`` trains a tiny run there, with what Hydra would have left beside it."""

    def make(folder: Path, *overrides: str) -> Path:
        config = compose([*_TINY, *overrides])
        hydra = folder / ".hydra"
        hydra.mkdir(parents=True)
        OmegaConf.save(config, hydra / "config.yaml")
        OmegaConf.save(list(overrides), hydra / "overrides.yaml")
        names = dict(each.split("=", 1) for each in ("data=mnist", "model=mlp", *overrides))
        choices = {group: names[group] for group in ("data", "model")}
        OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, hydra / "hydra.yaml")
        train(config, folder=folder, overrides=overrides)
        return folder

    return make
