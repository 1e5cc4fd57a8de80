"""Fixtures and settings for all tests: the real configuration made small, a run folder, a fixed seed.

More shared fixtures are in ``fixtures``, one module for each subject.
"""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from digitlab.config.compose import compose

pytest_plugins = [
    "fixtures.batches",
    "fixtures.browser",
    "fixtures.children",
    "fixtures.commands",
    "fixtures.composing",
    "fixtures.images",
    "fixtures.layers",
    "fixtures.plans",
    "fixtures.remains",
    "fixtures.repeated",
    "fixtures.rounding",
    "fixtures.updates",
]

# Several test processes share the cores, and small networks are slow with more threads than cores.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

_SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
)


def pytest_configure(config: pytest.Config) -> None:
    # Lightning warns on machines with SLURM.
    config.addinivalue_line("filterwarnings", "ignore:The `srun` command is available")
    # A shell that starts the tests in the background makes them and their child processes ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # The modules and the collected tests stay until the end. Without them, collecting garbage takes a tenth of the
    # time, and a forked child does not copy the memory that its collector would touch.
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="run the long form of the endurance tests: minutes each")


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether the endurance tests run in their long form (``--torture``)."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Fix torch's global seed, so that random numbers do not depend on the order of the tests."""
    # Not ``torch.manual_seed``: without a GPU in use it keeps the stack of its caller, which takes 2 ms in each test.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture
def shrunk() -> Callable[..., DictConfig]:
    """``shrunk("model=lenet", ...)`` composes the configuration of a command on the CPU, cut to a few mini-batches."""

    def compose_small(*overrides: str) -> DictConfig:
        return compose([*_SMALL, *overrides])

    return compose_small


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder for a run of the test; it does not exist yet."""
    return tmp_path / "run"
