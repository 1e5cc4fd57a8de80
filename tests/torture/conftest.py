"""What tests of endurance share: figures that they tell, and data sets that are read before children are forked."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from digitlab.config.compose import ROOT
from digitlab.data.sources import Cifar10Source, FashionMnistSource


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """``tell(text)`` writes beside the name of the test what it came to."""

    def write(text: str) -> None:
        with capsys.disabled():
            print(f" [{text}]", end="")

    return write


@pytest.fixture
def all_read(read_once: None) -> None:
    """The children find every data set read already, if it is here at all."""
    root = Path(os.environ.get("DIGITLAB_DATA", ROOT / "data"))
    for source in (FashionMnistSource(), Cifar10Source()) if root.is_dir() else ():
        source.read(root)
