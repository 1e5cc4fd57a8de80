"""Takes locks on files, also on file systems that have none: for run folders, manifests and the jobs of a sweep."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

# The errors of file systems that have no locks or no lock server. filelock itself handles only ENOSYS.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def acquire_lock(path: Path, *, timeout: float = -1) -> tuple[BaseFileLock, bool]:
    """Take the lock ``path``; also return whether the file system has locks.

    Without locks, the existence of the file is the lock. It names its process: if that dies, the next process on
    the same machine removes the file. Waits at most ``timeout`` seconds, or for ever if it is negative. Raises what
    ``FileLock.acquire`` raises.
    """
    lock: BaseFileLock = FileLock(path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            # filelock warns, on two lines of the terminal, when it falls back by itself (ENOSYS).
            warnings.simplefilter("always")
            lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # The failed attempt may have left its empty file, which a SoftFileLock would take for the file of a process.
        with suppress(OSError):
            if not path.stat().st_size:
                path.unlink()
        lock = SoftFileLock(path)
        lock.acquire(timeout=timeout)
        return lock, False
    return lock, not caught


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` inside the with block."""
    lock, _ = acquire_lock(path)
    try:
        yield
    finally:
        lock.release()
