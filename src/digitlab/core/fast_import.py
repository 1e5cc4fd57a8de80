"""Pauses Python's garbage collector while ``data`` and ``training`` import large packages: torch and Lightning."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector, and afterwards exclude all existing objects from future collections.

    Importing torch and Lightning creates 800,000 objects that live until the process ends. Without the pause, the
    collector would traverse them many times during the one or two seconds of the import.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Without ``freeze``, the next collection would traverse all these objects.
        gc.freeze()
        # C++ libraries that check for leaks when the process ends would report frozen objects as leaks.
        atexit.register(gc.unfreeze)
        if enabled:
            gc.enable()
