"""Locks run folders, manifests and the jobs of a sweep with lock files, even on file systems without locks."""

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

# The errors of file systems that have no locks or no lock server. filelock itself handles only ENOSYS.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}

# Linux lists all locks in this file, one per line, for example "1: FLOCK  ADVISORY  WRITE 32294 fe:00:2148337 0 EOF".
_LOCKS = Path("/proc/locks")
# Finds the inode number, 2148337. The device before it is ignored, because some file systems report another one.
_LOCKED_FILE = re.compile(r" [0-9a-f]+:[0-9a-f]+:(\d+) \S+ \S+$")


def acquire_lock(path: Path, *, timeout: float = -1) -> tuple[BaseFileLock, bool]:
    """Lock the file ``path``; return the lock, and whether the file system has locks.

    If it has none, the file counts as locked as long as it exists. It contains the id of its process: if that process
    dies, the next process on the same machine removes the file. Waits at most ``timeout`` seconds, or without a limit
    if ``timeout`` is negative. Raises what ``FileLock.acquire`` raises.
    """
    lock: BaseFileLock = FileLock(path)
    try:
        with warnings.catch_warnings(record=True) as fallback_warnings:
            # If the system reports ENOSYS, filelock itself falls back to a SoftFileLock and prints a warning. The
            # warning is caught here: it would be two lines on the terminal, and it tells that there are no locks.
            warnings.simplefilter("always")
            lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # The failed attempt may have left an empty file. A SoftFileLock would treat it as the lock of a process.
        with suppress(OSError):
            if not path.stat().st_size:
                path.unlink()
        lock = SoftFileLock(path)
        lock.acquire(timeout=timeout)
        return lock, False
    return lock, not fallback_warnings


def locked_inodes() -> frozenset[int] | None:
    """Return the inode numbers of the files that processes of this machine have locked; None outside Linux.

    It does not test this by locking the files itself: a run that starts in that moment would find its folder locked.
    """
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return frozenset(int(match[1]) for line in lines if (match := _LOCKED_FILE.search(line)))


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Lock the file ``path`` inside the with block; wait until it is free."""
    lock, _ = acquire_lock(path)
    try:
        yield
    finally:
        lock.release()
