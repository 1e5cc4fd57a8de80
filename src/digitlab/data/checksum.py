"""SHA-256 of what is read from a disk or a network: every file of a known data set is checked at every reading."""

import hashlib
from pathlib import Path

from digitlab.core.errors import DataError


def expect_sha256(path: Path, found: str, expected: str) -> None:
    """Raise ``DataError`` unless the two hexadecimal digests are equal; ``path`` is the file the error names."""
    if found != expected:
        raise DataError(f"{path}: damaged, or another file (its SHA-256 is {found[:12]}…, expected {expected[:12]}…)")


def check_file(path: Path, expected: str) -> None:
    """Raise ``DataError`` unless the bytes of the file have this SHA-256."""
    with path.open("rb") as stream:
        expect_sha256(path, hashlib.file_digest(stream, "sha256").hexdigest(), expected)
