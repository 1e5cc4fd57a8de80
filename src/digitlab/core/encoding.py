"""Prints a replacement for each character that a terminal or pipe can't show, for example under ``LC_ALL=C``.

``core.files.flush_stdout`` does this for every command, ``api`` while it trains. A run must not fail because it prints
a ``±``.
"""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

# Python knows ``_replace`` as a way to handle encoding errors under this name.
_ERROR_HANDLER = "digitlab"
# The characters outside ASCII that digitlab itself prints. Any other one becomes its code, for example \xfc for an ü
# in a path.
_ASCII_REPLACEMENTS = {"±": "+-", "×": "x", "·": "-", "–": "-", "…": "..."}


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of the characters that caused ``error``, and the position at which encoding continues."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    replaced = (
        _ASCII_REPLACEMENTS.get(character) or character.encode("ascii", "backslashreplace").decode()
        for character in text
    )
    return "".join(replaced), error.end


codecs.register_error(_ERROR_HANDLER, _replace)


def replace_unencodable(stream: TextIO) -> None:
    """Make ``stream`` print a replacement for each character that it can't encode, instead of raising."""
    # A stream that does not raise on such characters was configured by the user or by Python. It stays as it is.
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors=_ERROR_HANDLER)


@contextmanager
def unencodable_replaced(stream: TextIO) -> Iterator[None]:
    """Apply ``replace_unencodable`` within the with block; afterwards ``stream`` is as before."""
    # Programs without a window or terminal on Windows have no stdout.
    before = getattr(stream, "errors", None)
    replace_unencodable(stream)
    try:
        yield
    finally:
        if isinstance(stream, io.TextIOWrapper) and stream.errors != before:
            # ``reconfigure`` flushes the stream first, which fails if the disk is full or the stream is closed.
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=before)
