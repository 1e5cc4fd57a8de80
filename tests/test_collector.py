"""``gc_paused``: the garbage collector ignores what was imported, and works afterwards as before."""

import gc
import weakref

import pytest

from digitlab.core.fast_import import gc_paused


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_restored_after_a_failed_import(enabled: bool):
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ImportError), gc_paused():
            import digitlab.no_such_module  # noqa: F401
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
        gc.unfreeze()


def test_imported_objects_are_frozen_and_later_ones_are_collected():
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
