"""Writes files atomically, checks where a command may write, reads YAML, and words disk errors in one line."""

import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from digitlab.core.encoding import replace_unencodable
from digitlab.core.errors import ConfigError, RunError

# Files are written under a name with this end, and renamed when they are complete.
_TEMPORARY_SUFFIX = ".tmp"
# Errors that the machine causes, not the program. In this order: the disk is full, over its quota, read-only, without
# permission (two errors), or broken; the file is too large; this process or all processes have too many files open; a
# file server has lost the file.
_DISK_FAULTS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG,
    errno.EMFILE, errno.ENFILE, errno.ESTALE,
}  # fmt: skip
# Errors of a file in the place of a folder, or of a folder in the place of a file.
_WRONG_KIND = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}

# The errors of file systems that can't synchronise a folder, such as some network file systems.
_CANNOT_SYNCHRONISE = {errno.EINVAL, errno.EBADF}
# The pauses between attempts to replace a file on Windows.
_REPLACE_WAITS_SECONDS = (0.01, 0.05, 0.2, 0.5)


def read_yaml(path: Path) -> Any:
    """Return the plain values in a YAML file, with interpolations as they are written.

    Raises ``OSError`` if the file cannot be read and ``yaml.YAMLError`` if it is not YAML.
    """
    # PyYAML's default loader, which is written in Python, is many times slower than this one in C.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def write_atomically(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Replace ``path`` by a file with ``content``, atomically: readers see the old file or the new one, never a part.

    This also holds after a power cut. If ``keep`` is given (a path in the same folder), the old file is kept under
    that name. Raises ``RunError`` if the file cannot be written; the old file is then unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, keep=keep) as file:
            file.write(content)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {write_failure(error)}") from error


@contextmanager
def atomic_file(path: Path, *, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a temporary file in the folder of ``path``, which must exist; at the end of the block it replaces ``path``.

    Readers see the old file or the new one, never a part. If the block raises, the old file is unchanged. ``keep`` is
    as in ``write_atomically``. Raises ``OSError``.
    """
    # In the same folder, because a rename is atomic only within one file system. The name is random, because several
    # machines can write the same file at the same time, for example of a data set, by processes with the same id.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None:
            _link(path, keep)
        # After the file is closed, because Windows moves no open files.
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(part: Path, path: Path) -> None:
    """Rename ``part``, a complete file that is synchronised with the disk, to ``path``. Raises ``OSError``.

    The new name survives a power cut.
    """
    _replace(part, path)
    _synchronise_folder(path.parent)


def _replace(part: Path, path: Path) -> None:
    """Rename ``part`` to ``path``, which may exist. Windows refuses this while a program reads ``path``: try again."""
    for wait_seconds in _REPLACE_WAITS_SECONDS if sys.platform == "win32" else ():
        with suppress(PermissionError):
            os.replace(part, path)
            return
        time.sleep(wait_seconds)
    os.replace(part, path)


def _synchronise_folder(folder: Path) -> None:
    """Let a rename in ``folder`` survive a power cut. Do nothing where the system cannot synchronise folders."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNCHRONISE:
            raise
    finally:
        os.close(descriptor)


def require_writable(path: Path, *, option: str, force: bool) -> None:
    """Raise ``ConfigError`` unless ``path``, the value of ``option``, is a file that a command may write.

    Its folder must exist, and the file must be new unless ``force`` is on. Raises ``RunError`` if the folder can't be
    written.
    """
    if path.exists() and not force:
        raise ConfigError(option, path, "already exists: --force overwrites it")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(option, path, "must be a file in an existing folder")
    require_writable_folder(path, option=option)


def require_writable_folder(path: Path, *, option: str) -> None:
    """Raise ``RunError`` if no file can be made at ``path``; call it before the slow work whose result belongs there.

    Missing folders count as writable if they can be made. ``option`` chooses another place.
    """
    import tempfile

    folder = next(each for each in path.absolute().parents if each.is_dir())
    try:
        # Opening a file is the only sure test: a folder may be on a read-only file system.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"{path}: can't be written: {error.strerror or error}; {option} chooses another place"
        raise RunError(message) from error


def require_current_folder() -> None:
    """Raise ``RunError`` if somebody has removed the current folder: relative paths then lead nowhere."""
    try:
        os.getcwd()
    except FileNotFoundError:
        message = "the current folder has been removed: change to another one, for example with cd ~"
        raise RunError(message) from None


def require_text(path: Path, *, key: str) -> None:
    """Raise ``ConfigError`` if ``path``, the value of ``key``, has bytes that are no text: TensorBoard can't write it.

    In such a path, Python stands for these bytes with surrogates.
    """
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        hint = "" if encoding == "utf-8" else ", or set LC_ALL=C.UTF-8 if the name is text in UTF-8"
        allowed = f"has bytes that are no text in {encoding}: choose another folder{hint}"
        raise ConfigError(key, os.path.abspath(path), allowed) from None


def expand_home(path: Path | str) -> Path:
    """Return ``path`` with the home folder in place of ~ or ~NAME; unchanged if there is no such folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def path_text(path: Path | str) -> str:
    """Return ``path`` for a message or a table, in one line: as Python writes characters that do not print."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(path)
    )


def write_failure(error: OSError) -> str:
    """Return why a file or folder can't be written; if a file is in the place of a folder, or the reverse, which one.

    The text may follow the path of the file and a colon.
    """
    # If a file can't be renamed, the second name is the one that is taken.
    name = error.filename2 or error.filename
    if error.errno in _WRONG_KIND and isinstance(name, str | os.PathLike):
        path = Path(name)
        # In a path through a file, that file is the first of these that exists.
        taken = next(each for each in (path, *path.parents) if each.exists())
        if error.errno == errno.EISDIR:
            return f"{path} is a folder where a file is needed: move it away"
        if not taken.is_dir():
            return f"{taken} is a file where a folder is needed: move it away"
    return error.strerror or str(error)


def error_text(error: Exception) -> str:
    """Return the text of ``error`` in one line; for an error of the file system, its file and the reason."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def relative_path(path: Path) -> str:
    """Return ``path`` relative to the current folder; unchanged if Windows has it on another drive."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def short_path(path: Path) -> str:
    """Return the path that messages show: relative if ``path`` is inside the current folder, else absolute."""
    # A relative path with several ".." is harder to read than an absolute one.
    relative = relative_path(path)
    return os.path.abspath(path) if relative.startswith("..") else relative


def remove_parts(folder: Path) -> None:
    """Remove temporary files that killed processes left in ``folder``. No process may be writing there."""
    for part in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        part.unlink(missing_ok=True)


@contextmanager
def disk_faults(place: Path | str) -> Iterator[None]:
    """Turn a disk error in the with block into a ``RunError`` that names the file, or ``place`` if that is unknown.

    A file in the place of a folder, or the reverse, counts as one. A name that is too long becomes a ``ConfigError``,
    because only the user can have chosen it.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _WRONG_KIND:
            raise RunError(write_failure(error)) from error
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError("", error.filename or place, "this name is too long for a file") from error
        if error.filename is None and "temporary directory" in str(error):
            message = f"{error.strerror}: set TMPDIR to a folder that can be written"
            raise RunError(message) from error
        if error.errno not in _DISK_FAULTS:
            raise
        raise RunError(f"{error.filename or place}: {error.strerror}") from error


@contextmanager
def flush_stdout() -> Iterator[None]:
    """Flush standard output at the end of a command. Raises ``RunError`` if this fails, for example on a full disk.

    If the reader has closed the pipe (as ``head`` does), the process ends with exit code 1 and without a message.
    """
    replace_unencodable(sys.stdout)
    with disk_faults("standard output"):
        try:
            yield
        except BrokenPipeError:
            sys.exit(1)
        finally:
            try:
                sys.stdout.flush()
            except OSError as error:
                # Otherwise the interpreter would try to write the buffer again when it ends, and print a traceback.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                if not isinstance(error, BrokenPipeError):
                    raise


def _link(path: Path, other: Path) -> None:
    """Make ``other`` a hard link to ``path``, atomically. Do nothing if ``path`` or support for links is missing."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    with suppress(AttributeError, OSError):
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, other)
        # If both names already belong to the same file, os.replace does nothing and the temporary name remains.
        temporary.unlink(missing_ok=True)
