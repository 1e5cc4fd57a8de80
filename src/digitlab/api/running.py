"""Keeps the stopper of each training that runs in this process, so that ``Run.stop`` can stop them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digitlab.core.signals import Stopper

_stoppers: dict[Path, Stopper] = {}


@contextmanager
def stoppable_by_folder(folder: Path, stopper: Stopper) -> Iterator[None]:
    """Within this context, ``stopper_of(folder)`` returns ``stopper``, that of the training in ``folder``."""
    path = folder.resolve()
    # A second training in the same folder is refused later; it must not replace the stopper of the first one.
    _stoppers.setdefault(path, stopper)
    try:
        yield
    finally:
        if _stoppers.get(path) is stopper:
            del _stoppers[path]


def stopper_of(folder: Path) -> Stopper | None:
    """Return the stopper of the training in ``folder``, or None if this process does not train there."""
    return _stoppers.get(folder.resolve())
