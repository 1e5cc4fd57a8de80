"""Imports without the collector: nothing that they make is looked at, and the collector works afterwards as before."""

import gc
import weakref

import pytest

from digitlab.core.fast_import import gc_paused


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was_found_whatever_an_import_raises(enabled: bool):
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ImportError), gc_paused():
            import digitlab.no_such_module  # noqa: F401
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_is_imported_is_not_looked_at_again_and_what_comes_later_is_collected():
    before = gc.get_freeze_count()
    try:
        with gc_paused():
            assert not gc.isenabled()
            imported = [[] for _ in range(1000)]
        assert gc.get_freeze_count() >= before + len(imported)
        later = weakref.ref(Cycle())
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()
