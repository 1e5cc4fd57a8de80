"""Lets only one process at a time work on a run folder. The kernel frees the lock however its holder ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, Timeout

from digitlab.core.errors import RunError
from digitlab.core.files import remove_parts
from digitlab.core.locks import acquire_lock
from digitlab.results.folder import RunFolder

log = logging.getLogger(__name__)

# The locks that this process holds, by path. A new folder is stored too, to be removed if no run starts in it.
_taken: dict[Path, tuple[BaseFileLock, RunFolder | None]] = {}


class BusyError(RunError):
    """Another process is working on the run folder."""


def take(run: RunFolder, *, new: bool = False) -> None:
    """Lock the existing folder of ``run`` for this process; do nothing if this process holds the lock already.

    Half-written files of a killed process are removed. ``new`` says that the folder was just made for this run. Raises
    ``BusyError`` if another process holds the lock, ``RunError`` if the folder is read-only or its disk is full.
    """
    key = run.path.resolve()
    if key in _taken:
        return
    try:
        lock = _acquire(run)
        remove_parts(run.path)
        remove_parts(run.last.parent)
    except Timeout:
        raise BusyError(f"{run.path}: another process is working on this run") from None
    except OSError as error:
        raise RunError(f"{run.path}: can't be written: {error.strerror or error}") from error
    _taken[key] = lock, run if new else None


def _acquire(run: RunFolder) -> BaseFileLock:
    lock, real = acquire_lock(run.lock, timeout=0)
    if not real:
        log.warning("%s: this file system has no locks; the file .lock marks the run as busy instead", run.path)
    return lock


def give_back(run: RunFolder) -> None:
    """Unlock the folder of ``run``; do nothing if this process does not hold the lock."""
    lock, _ = _taken.pop(run.path.resolve(), (None, None))
    if lock is not None:
        with suppress(OSError):
            # Remove the file before releasing the lock: a process that opened it meanwhile checks that it still exists.
            run.lock.unlink(missing_ok=True)
        lock.release()
        # Windows removes no open file. There it fails the second time, too, if another process has the lock by now.
        with suppress(OSError):
            run.lock.unlink(missing_ok=True)


def remove_unbegun() -> None:
    """Remove the new folders that this process still holds, at its end: no run has started in them."""
    for _, run in list(_taken.values()):
        if run is not None:
            run.discard_if_fresh()
            give_back(run)


@contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Lock the folder of ``run`` inside the with block. Raises what ``take`` raises."""
    take(run)
    try:
        yield
    finally:
        give_back(run)
