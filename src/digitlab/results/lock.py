"""Lets only one process at a time work on a run folder. If a process dies, the system frees its locks."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, Timeout

from digitlab.core.errors import RunError
from digitlab.core.files import remove_parts, write_failure
from digitlab.core.locks import acquire_lock
from digitlab.results.folder import RunFolder

log = logging.getLogger(__name__)

# The locks that this process holds, by the path of the folder. If the folder was just made for a run, it is stored with
# its lock, because ``remove_unstarted_folders`` may remove it. Otherwise None is stored.
_locks: dict[Path, tuple[BaseFileLock, RunFolder | None]] = {}


class BusyError(RunError):
    """Another process is working on the run folder."""


def lock_folder(run: RunFolder, *, new: bool = False) -> None:
    """Lock the folder of ``run``, which must exist, for this process; do nothing if this process has locked it already.

    Incomplete files of a killed process are removed. ``new`` says that the folder was just made for this run. Raises
    ``BusyError`` if another process has locked it, ``RunError`` if the folder is read-only or its disk is full.
    """
    key = run.path.resolve()
    # A command locks the folder when it has checked its settings, and ``train`` locks it again.
    if key in _locks:
        return
    try:
        lock = _acquire(run)
        # Only now is it certain that no other process is writing these files.
        remove_parts(run.path)
        remove_parts(run.last.parent)
    except Timeout:
        raise BusyError(f"{run.path}: another process is working on this run") from None
    except OSError as error:
        raise RunError(f"{run.path}: can't be written: {write_failure(error)}") from error
    _locks[key] = lock, run if new else None


def _acquire(run: RunFolder) -> BaseFileLock:
    """Return the lock. Raises ``Timeout`` at once if another process has it."""
    lock, has_locks = acquire_lock(run.lock, timeout=0)
    if not has_locks:
        log.warning("%s: no locks here that all machines see; the file .lock marks the run as busy instead", run.path)
    return lock


def unlock_folder(run: RunFolder) -> None:
    """Unlock the folder of ``run``; do nothing if this process has not locked it."""
    lock, _ = _locks.pop(run.path.resolve(), (None, None))
    if lock is not None:
        with suppress(OSError):
            # The file is removed before the lock is released. If another process has opened it in the meantime, that
            # process notices that the file does not exist any more, and tries again.
            run.lock.unlink(missing_ok=True)
        lock.release()
        # Windows can't remove an open file, so try again after the release. This fails if another process already has
        # the lock, and then the file must stay.
        with suppress(OSError):
            run.lock.unlink(missing_ok=True)


def remove_unstarted_folders() -> None:
    """Remove the new folders that this process still locks when it ends, if no run has started in them."""
    for _, run in list(_locks.values()):
        if run is not None:
            run.discard_if_fresh()
            unlock_folder(run)


@contextmanager
def locked_folder(run: RunFolder) -> Iterator[None]:
    """Lock the folder of ``run`` inside the with block. Raises what ``lock_folder`` raises."""
    lock_folder(run)
    try:
        yield
    finally:
        unlock_folder(run)
