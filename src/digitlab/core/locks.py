"""Takes locks on files, also on file systems that have none: for run folders, manifests and the jobs of a sweep."""

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

# The errors of file systems that have no locks or no lock server. filelock itself handles only ENOSYS.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}

# Where Linux lists all locks.
_LOCKS = Path("/proc/locks")
_LOCKED_FILE = re.compile(r" [0-9a-f]+:[0-9a-f]+:(\d+) \S+ \S+$")


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


def locked_inodes() -> frozenset[int] | None:
    """Return the inode numbers of the files that processes of this machine hold locked; None outside Linux.

    Nothing is locked for this. To try a lock, even for a moment, could refuse it to a run that starts in that moment.
    """
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 32294 fe:00:2148337 0 EOF. The device is ignored: some file systems report another one.
    return frozenset(int(each[1]) for line in lines if (each := _LOCKED_FILE.search(line)))


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` inside the with block."""
    lock, _ = acquire_lock(path)
    try:
        yield
    finally:
        lock.release()
