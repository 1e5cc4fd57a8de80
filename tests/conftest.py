"""What all tests have in common: the real configuration made small, where a run may write, and how they begin.

The other fixtures that they share lie in ``fixtures``, a module a subject.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from digitlab.config.compose import compose

pytest_plugins = [
    "fixtures.children",
    "fixtures.commands",
    "fixtures.images",
    "fixtures.layers",
    "fixtures.remains",
    "fixtures.rounding",
    "fixtures.updates",
]

# More threads than cores make small networks slow, and the suite runs in several processes.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

_SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
)


def pytest_configure() -> None:
    # A shell that starts the tests in the background has them, and every process that they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="tests of endurance in their long form: minutes each")


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test of endurance is asked for."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws without a generator of its own is the same in whatever order tests run."""
    torch.manual_seed(0)


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
