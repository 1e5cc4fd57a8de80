"""Fixtures for the endurance tests: printing their figures, and reading data sets before children are forked."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from digitlab.config.compose import ROOT
from digitlab.data.sources import Cifar10Source, FashionMnistSource


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """``tell(text)`` prints figures next to the name of the test."""

    def write(text: str) -> None:
        with capsys.disabled():
            print(f" [{text}]", end="")

    return write


@pytest.fixture
def all_read(read_once: None) -> None:
    """Read all data sets that are there, so that forked children need not read them."""
    root = Path(os.environ.get("DIGITLAB_DATA", ROOT / "data"))
    for source in (FashionMnistSource(), Cifar10Source()) if root.is_dir() else ():
        source.read(root)
