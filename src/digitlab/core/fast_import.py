"""Python's collector of cyclic garbage, kept from looking through libraries while they are imported."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """For imports: the objects that they make stay, and neither now nor later does the collector look at them.

    torch and Lightning make 800,000, which it would go through again and again in the second or two that their
    import takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # What there is would else be looked at by the first collection after this.
        gc.freeze()
        # Libraries in C++ that look for leaks when the process ends would take what is never freed for some.
        atexit.register(gc.unfreeze)
        if enabled:
            gc.enable()
