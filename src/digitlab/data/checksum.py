"""Checks data files by SHA-256, and torchvision's archives by MD5, because torchvision publishes only their MD5.

The sources use it. digitlab verifies the files that it reads itself each time it reads them, and an archive only once,
before torchvision unpacks it.
"""

import hashlib
from pathlib import Path

from digitlab.core.errors import DataError


def expect_sha256(path: Path, actual: str, expected: str) -> None:
    """Raise ``DataError`` if two hexadecimal digests differ; the message names the file ``path``."""
    if actual != expected:
        raise DataError(f"{path}: damaged, or another file (its SHA-256 is {actual[:12]}…, expected {expected[:12]}…)")


def check_file(path: Path, expected: str) -> None:
    """Raise ``DataError`` if the SHA-256 of the file ``path`` is not ``expected``."""
    with path.open("rb") as stream:
        expect_sha256(path, hashlib.file_digest(stream, "sha256").hexdigest(), expected)


def check_md5(path: Path, expected: str) -> None:
    """Raise ``DataError`` if the MD5 of the file ``path`` is not ``expected``."""
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != expected:
        raise DataError(f"{path}: damaged, or another file (its MD5 is {actual[:12]}…, expected {expected[:12]}…)")
