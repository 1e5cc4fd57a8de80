"""Files that are whole or absent: what every part of the project that writes a file goes through."""

import os
from contextlib import suppress
from pathlib import Path

from digitlab.schema import RunError

_PART = ".tmp"


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


def _link(path: Path, other: Path) -> None:
    """Give ``path``, where it is there, a second name at once; not every file system can."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}{_PART}")
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, other)
        # Of two names of one file, rename removes neither.
        temporary.unlink(missing_ok=True)
