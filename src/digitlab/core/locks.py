"""Locks files, so that two processes never work on the same run, or change the list of a sweep's runs, at once.

``results`` locks run folders with it, ``sweeps`` their jobs and lists of runs. Some file systems have no locks, or
locks that other machines do not see. There, a *lease* takes the place of a lock: a file that its owner creates, renews
regularly to show that it is alive, and removes at the end.
"""

import errno
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from digitlab.core.system import MOUNTS, mount_of

# The errors of file systems that have no locks or no lock server.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
# Other machines do not see a lock on a file system of Lustre or NFS that is mounted with one of these options, or on a
# file system of one of these types. Locking always succeeds there.
_LOCAL_LOCK_OPTIONS = {"localflock", "nolock", "local_lock=all", "local_lock=flock"}
_LOCAL_LOCK_SYSTEMS = {"fuse.sshfs", "fuse.s3fs"}
# A lease that was not renewed for this time has expired. Its owner renews it three times as often. The time is long,
# because a file server can be unreachable for a minute.
_LEASE_SECONDS = 120.0
# The owner of a lease writes its name into the file right after it has created it. So a file that is still empty after
# this time has no owner.
_UNNAMED_SECONDS = 60.0

# Linux lists all locks in this file, one per line, for example "1: FLOCK  ADVISORY  WRITE 32294 fe:00:2148337 0 EOF".
_LOCKS = Path("/proc/locks")
# Finds the inode number, 2148337. The device before it is ignored, because some file systems report another one.
_LOCKED_FILE = re.compile(r" [0-9a-f]+:[0-9a-f]+:(\d+) \S+ \S+$")


def acquire_lock(path: Path, *, timeout: float = -1) -> tuple[BaseFileLock, bool]:
    """Lock the file ``path``; return the lock, and whether the file system has locks that all machines see.

    Without such locks, the file itself is a lease: it counts as locked as long as it exists, and contains the name of
    its owner, a process. If the owner has died, the next process that wants the lock removes the file: at once on the
    same machine and in the same container, otherwise when the lease expires.

    Waits at most ``timeout`` seconds, or without a limit if ``timeout`` is negative. It waits longer only to find out
    whether a process on another machine or in another container has died. Raises ``filelock.Timeout``, a
    ``TimeoutError``, if the file is still locked then, and ``OSError`` if it cannot be opened.
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
    # A failed attempt to lock leaves an empty file, which other processes would take for a lease. An empty file that
    # existed before may be the lease of a process that is about to write its name, so it is removed only if it is old.
    with suppress(OSError):
        status = path.stat()
        if not status.st_size and (created or time.time() - status.st_mtime > _UNNAMED_SECONDS):
            path.unlink()
    return _acquire_lease(path, timeout), False


def _acquire_lease(path: Path, timeout: float) -> BaseFileLock:
    """Create the lease ``path``; see ``acquire_lock`` for how long it waits for the lease of another process."""
    lease = SoftFileLease(path, lease_duration=_LEASE_SECONDS)
    try:
        lease.acquire(timeout=timeout)
    except Timeout:
        # filelock removes the lease of an owner that it can see to be dead, so an owner on this machine is alive.
        if lease.owner is not None and lease.owner.hostname == _machine_of_leases(path.parent):
            raise
        # The owner is on another machine, or it was in a container that may have been started again under the same host
        # name since then. If it has died, its lease expires within this time.
        lease.acquire(timeout=1.2 * _LEASE_SECONDS)
    return lease


def _machine_of_leases(folder: Path) -> str | None:
    """Return the name that filelock writes into a lease of this process: that of the machine and of the container.

    It is read from a lease that exists in ``folder`` for a moment, because only filelock knows it: on Linux, it adds
    the namespace of the process ids to the host name. Processes with the same name see each other's process ids.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as name, SoftFileLease(Path(name) / "lease") as lease:
        return None if lease.owner is None else lease.owner.hostname


def _locks_are_local(path: Path) -> bool:
    """Return whether other machines do not see locks on the file system of ``path``; False if it is unknown."""
    mount = mount_of(path, mounts=MOUNTS)
    if mount is None:
        return False
    kind, options = mount
    return kind in _LOCAL_LOCK_SYSTEMS or not _LOCAL_LOCK_OPTIONS.isdisjoint(options)


def locked_inodes() -> frozenset[int] | None:
    """Return the inode numbers of the files that processes of this machine have locked; None outside Linux.

    It reads the system's list instead of trying to lock each file: a run that starts in the moment of such an attempt
    would find its folder locked.
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
