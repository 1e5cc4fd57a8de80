"""Locks run folders, manifests and the jobs of a sweep with lock files, even on file systems without locks."""

import errno
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from digitlab.core.system import MOUNTS, mount_of

# The errors of file systems that have no locks or no lock server.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
# Options of Lustre and NFS, and file systems, with which other machines do not see a lock: it always succeeds there.
_LOCAL_LOCK_OPTIONS = {"localflock", "nolock", "local_lock=all", "local_lock=flock"}
_LOCAL_LOCK_SYSTEMS = {"fuse.sshfs", "fuse.s3fs"}
# The owner of a lock file renews it three times in this time. It is long, because servers of files pause too.
_LEASE_SECONDS = 120.0
# After this time, an empty file belongs to nobody.
_UNNAMED_SECONDS = 60.0

# Linux lists all locks in this file, one per line, for example "1: FLOCK  ADVISORY  WRITE 32294 fe:00:2148337 0 EOF".
_LOCKS = Path("/proc/locks")
# Finds the inode number, 2148337. The device before it is ignored, because some file systems report another one.
_LOCKED_FILE = re.compile(r" [0-9a-f]+:[0-9a-f]+:(\d+) \S+ \S+$")


def acquire_lock(path: Path, *, timeout: float = -1) -> tuple[BaseFileLock, bool]:
    """Lock the file ``path``; return the lock, and whether the file system has locks that all machines see.

    Without such locks, the file counts as locked as long as it exists. It names its process, which renews it. If that
    process dies, the next one removes the file: at once on the same machine, after two minutes on another.

    Waits at most ``timeout`` seconds, or without a limit if ``timeout`` is negative. It waits longer only to find out
    whether a process on another machine has died. Raises what ``FileLock.acquire`` raises.
    """
    created = False
    if not _locks_are_local(path):
        created = not path.exists()
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(timeout=timeout)
            return lock, True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    # The failed attempt leaves an empty file, which would look like that of a process. One that was there before may
    # belong to a process that has yet to write its name.
    with suppress(OSError):
        status = path.stat()
        if not status.st_size and (created or time.time() - status.st_mtime > _UNNAMED_SECONDS):
            path.unlink()
    return _acquire_lease(path, timeout), False


def _acquire_lease(path: Path, timeout: float) -> BaseFileLock:
    lease = SoftFileLease(path, lease_duration=_LEASE_SECONDS)
    try:
        lease.acquire(timeout=timeout)
    except Timeout:
        # A process of this machine is alive, or its file would have been removed. A container has a suffix.
        if lease.owner is not None and lease.owner.hostname.partition("?")[0] == socket.gethostname():
            raise
        lease.acquire(timeout=1.2 * _LEASE_SECONDS)
    return lease


def _locks_are_local(path: Path) -> bool:
    mount = mount_of(path, mounts=MOUNTS)
    return mount is not None and (mount[0] in _LOCAL_LOCK_SYSTEMS or not _LOCAL_LOCK_OPTIONS.isdisjoint(mount[1]))


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
