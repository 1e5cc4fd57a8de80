"""Files that are whole or absent, and disks that fail: what every part of the project that writes goes through."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from digitlab.core.errors import RunError

_PART = ".tmp"
# Of the disk, not of the program: it is full or past a quota, read-only, failing, or a file may not grow so large.
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


def write_atomically(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Write a file so that a reader, or the next start after a power cut, finds the old one or the new, no part.

    ``keep``, in the same folder, is where the old one goes on to be. Raises ``RunError`` where the disk is full, the
    folder is read-only, or the like; the old file stands then.
    """
    # In the same folder: only within one file system is a rename atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None:
                _link(path, keep)
            move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error


def move_into_place(part: Path, path: Path) -> None:
    """Give a whole file, synchronised with the disk, its name, for good. Raises ``OSError``."""
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left in ``folder``; nobody may be writing there."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


@contextmanager
def disk_faults(place: Path | str) -> Iterator[None]:
    """Turn a fault of the disk into a ``RunError`` that names the file, or at least ``place``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        raise RunError(f"{error.filename or place}: {error.strerror}") from error


@contextmanager
def flush_stdout() -> Iterator[None]:
    """Around a whole command: what it prints has left the process at its end, or a ``RunError`` says why it could not.

    As disks do, so does standard output fill up; files are named by what writes them. A reader that has gone has what
    it wanted: the command ends quietly.
    """
    with disk_faults("standard output"):
        try:
            yield
        except BrokenPipeError:
            sys.exit(1)
        finally:
            try:
                sys.stdout.flush()
            except OSError as error:
                # What is left would be tried once more, and complained of, as the interpreter ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                if not isinstance(error, BrokenPipeError):
                    raise


def _link(path: Path, other: Path) -> None:
    """Give ``path``, where it is there, a second name at once; not every file system can."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}{_PART}")
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, other)
        # Of two names of one file, rename removes neither.
        temporary.unlink(missing_ok=True)
