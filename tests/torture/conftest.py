"""What tests of endurance share: data sets that are read once."""

from functools import cache

import pytest

from digitlab.data.sources import Cifar10Source, FashionMnistSource, MnistSource


@pytest.fixture(scope="session")
def read_once() -> None:
    """Have the children inherit the data sets as read by the parent."""
    with pytest.MonkeyPatch.context() as patch:
        for source in (MnistSource, FashionMnistSource, Cifar10Source):
            read = source.read
            known = cache(lambda name, root, read=read, source=source: read(source(), root))
            patch.setattr(source, "read", lambda self, root, known=known: known(self.name, root))
        yield
