"""Two tiny runs that all tests of explanations share: a LeNet that knows its digits, and an MLP."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import compose
from digitlab.explain.network import ExplainedRun, read_explained_run
from digitlab.results.folder import RunFolder
from digitlab.training import train

_SMALL = ("trainer=cpu", "trainer.progress_bar=false", "data.val_size=100", "early_stopping=null", "data.batch_size=64")


def _trained(folder: Path, *overrides: str) -> Path:
    config = compose([*_SMALL, *overrides])
    run = RunFolder(folder)
    run.config.parent.mkdir(parents=True)
    OmegaConf.save(config, run.config)
    train(config, folder=folder, overrides=overrides)
    return folder


@pytest.fixture(scope="session")
def lenet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet after three epochs on 3,000 digits, tested on 1,024; tests only read it."""
    folder = tmp_path_factory.mktemp("lenet") / "run"
    return _trained(
        folder, "model=lenet", "data.train_size=3000", "trainer.max_epochs=3", "trainer.limit_test_batches=16"
    )


@pytest.fixture(scope="session")
def mlp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network without convolutions, which was not tested."""
    folder = tmp_path_factory.mktemp("mlp") / "run"
    return _trained(
        folder, "model=mlp", "model.hidden=[16]", "data.train_size=300", "trainer.max_epochs=1", "test=none"
    )


@pytest.fixture(scope="session")
def open_explained() -> Callable[[Path], ExplainedRun]:
    return lambda folder: read_explained_run(RunFolder(folder))


@pytest.fixture
def lenet(lenet_folder: Path, open_explained: Callable[[Path], ExplainedRun]) -> ExplainedRun:
    return open_explained(lenet_folder)


@pytest.fixture
def mlp(mlp_folder: Path, open_explained: Callable[[Path], ExplainedRun]) -> ExplainedRun:
    return open_explained(mlp_folder)
