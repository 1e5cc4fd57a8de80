"""One process at a time on a run folder, by a lock that the kernel frees however its holder ends."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from digitlab.core.errors import RunError
from digitlab.core.files import remove_parts
from digitlab.results.folder import RunFolder

# By path: the lock, and the folder where it is to be removed unless a run begins in it.
_taken: dict[Path, tuple[FileLock, RunFolder | None]] = {}


class BusyError(RunError):
    """A run folder that another process is at work on."""


def take(run: RunFolder, *, new: bool = False) -> None:
    """Take hold of a run's folder, which is there, for this process; at once where it has done so before.

    What a killed process left half-written there is removed. ``new``: the folder was made for this. Raises
    ``BusyError`` where another process has it, ``RunError`` where the folder is read-only or on a full disk.
    """
    key = run.path.resolve()
    if key in _taken:
        return
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=0)
        remove_parts(run.path)
        remove_parts(run.last.parent)
    except Timeout:
        raise BusyError(f"{run.path}: another process is at work on this run") from None
    except OSError as error:
        raise RunError(f"{run.path}: can't be written: {error.strerror or error}") from error
    _taken[key] = lock, run if new else None


def give_back(run: RunFolder) -> None:
    """Let others take the folder; nothing where this process does not hold it."""
    lock, _ = _taken.pop(run.path.resolve(), (None, None))
    if lock is not None:
        with suppress(OSError):
            # While it is held: who opened it in the meantime looks whether it is still there.
            run.lock.unlink(missing_ok=True)
        lock.release()


def remove_unbegun() -> None:
    """At the end of the process: remove the new folders it still holds, as no run has come to begin in them."""
    for _, run in list(_taken.values()):
        if run is not None:
            run.discard_if_fresh()
            give_back(run)


@contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Hold the folder of a run, and give it back at the end. Raises what ``take`` raises."""
    take(run)
    try:
        yield
    finally:
        give_back(run)
