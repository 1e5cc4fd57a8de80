"""Quotes values that Hydra's parser cannot read without quotes, such as paths with ``ö`` or ``(``.

``compose`` and ``command_line`` use it before Hydra parses an override.
"""

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from digitlab.config.overrides import split_override

# Keys whose value is a path or the name of a folder; in a sweep it can be several. The value of a folder of Hydra is
# always one path.
_PATH_KEYS = ("data.root", "data.path", "sweep.name")
_FOLDER_KEYS = ("hydra.run.dir", "hydra.sweep.dir")
# The characters that Hydra's grammar allows in a value without quotes, besides brackets, commas and characters after a
# backslash.
_PLAIN = r"A-Za-z0-9_/\-\\+.$%*@?|: \t"
# Hydra's functions, such as choice(1,2). Their arguments have a grammar of their own.
_FUNCTIONS = r"(choice|range|interval|glob|sort|shuffle|tag|extend_list|int|float|str|bool|json_str)\("


def quote_path(override: str) -> str:
    """Return ``override`` with its value in quotes if the value is a path that Hydra cannot read otherwise.

    ``data.root=/data/größe`` becomes ``data.root='/data/größe'``. All other overrides are returned unchanged. A value
    with a comma is also unchanged, because it can be several values of a sweep, except for ``hydra.run.dir`` and
    ``hydra.sweep.dir``, which are always one path. ``resume`` never reaches Hydra, so it needs no quotes.
    """
    key, value = split_override(override)
    if not value or value[0] in "'\"$" or key == "resume" or not _needs_quotes(override, key, value):
        return override
    quoted = override.removesuffix(value) + in_quotes(value)
    # If quotes do not help either, the error message must show what the user typed.
    return quoted if _read_by_hydra(quoted) == value else override


def _needs_quotes(override: str, key: str, value: str) -> bool:
    """Return whether Hydra would not read the path ``value`` as it is written."""
    if key in _FOLDER_KEYS:
        return _read_by_hydra(override) != value
    if "," in value or not (key in _PATH_KEYS or value.startswith(("/", "~/", "./", "../"))):
        return False
    hydra_value = _read_by_hydra(override)
    # A folder may be called 2026, which Hydra would read as a number.
    return (hydra_value is None and value != "null") or (key in _PATH_KEYS and isinstance(hydra_value, int | float))


def unquote(value: str) -> str:
    """Return ``value`` without the quotes around it, if there are any."""
    quotes = value[:1]
    return value[1:-1] if len(value) > 1 and quotes in ("'", '"') and value.endswith(quotes) else value


def character_to_quote(value: str) -> str | None:
    """Return the first character of ``value`` that Hydra can read only within quotes, or None.

    Brackets and commas of lists and dicts, and the text within quotes, are not reported.
    """
    if re.match(_FUNCTIONS, value):
        return None
    # Text that is quoted or escaped already, and interpolations, need no quotes.
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\$\{[^}]*\}|\\.", "", value)
    # A quote that remains in a list or dict is not closed. It is not reported here, because quotes around the whole
    # value would only hide that mistake.
    brackets = r"\[\]{},~'\"" if value[:1] in ("[", "{") else ","
    match = re.search(rf"[^{_PLAIN}{brackets}]", text)
    return match[0] if match else None


def shell_form(key: str, value: str) -> str:
    """Return the override as typed in a shell so that Hydra reads the whole value as text: ``'KEY="VALUE"'``."""
    quoted = in_quotes(value, quotes='"')
    return shlex.quote(f"{key}={quoted}")


def in_quotes(value: str, quotes: str = "'") -> str:
    """Return ``value`` in quotes and escaped, so that Hydra reads every character as it is."""
    # In Hydra's quoted values a backslash is special only before a quote and at the end.
    escaped = re.sub(rf"(\\*){quotes}", lambda match: 2 * match[1] + "\\" + quotes, value)
    return quotes + re.sub(r"(\\+)$", lambda match: 2 * match[1], escaped) + quotes


def _read_by_hydra(override: str) -> object:
    """Return the value that Hydra reads from ``override``, or None if Hydra can't read it."""
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return None
