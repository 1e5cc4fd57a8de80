"""Lets every character be printed on a terminal or pipe with a smaller character set, such as ``LC_ALL=C``.

``core.files.flush_stdout`` applies it around every command: a table of finished runs must not fail for a ``±``.
"""

import codecs
import io
from typing import TextIO

_ERRORS = "digitlab"
# What the project itself prints beyond ASCII. Everything else, such as an umlaut in a path, is shown as \xfc.
_PLAIN = {"±": "+-", "×": "x", "·": "-", "–": "-", "…": "..."}


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = (_PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode() for character in text)
    return "".join(plain), error.end


codecs.register_error(_ERRORS, _replace)


def replace_unencodable(stream: TextIO) -> None:
    """Make ``stream`` print a replacement for each character that it can't encode, instead of raising."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors=_ERRORS)
