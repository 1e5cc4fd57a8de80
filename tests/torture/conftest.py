"""What tests of endurance share: the script without a process of its own, and data sets that are read once."""

import importlib.util
import sys
from collections.abc import Callable
from functools import cache

import pytest

from digitlab.config import ROOT, compose
from digitlab.data.sources import Cifar10Source, FashionMnistSource, MnistSource


@pytest.fixture(scope="session")
def train_py_run() -> Callable[..., None]:
    """``train_py_run("model=mlp", ...)`` is what ``python train.py model=mlp ...`` does, in this process."""
    spec = importlib.util.spec_from_file_location("train_py", ROOT / "train.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    compose()  # Hydra looks for its plugins once

    def run(*arguments: str) -> None:
        sys.argv = ["train.py", *arguments]
        script.run()

    return run


@pytest.fixture(scope="session")
def read_once() -> None:
    """Have the children inherit the data sets as read by the parent."""
    with pytest.MonkeyPatch.context() as patch:
        for source in (MnistSource, FashionMnistSource, Cifar10Source):
            read = source.read
            known = cache(lambda name, root, read=read, source=source: read(source(), root))
            patch.setattr(source, "read", lambda self, root, known=known: known(self.name, root))
        yield
