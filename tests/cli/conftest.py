"""Small runs for the tests of the ``digitlab`` command."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import compose
from digitlab.training import train

_TINY = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "data.train_size=500",
    "data.val_size=200",
    "trainer.limit_test_batches=5",
)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """``make_run(folder, "model=linear", ...)`` trains a tiny run and writes the files that Hydra would write."""

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
