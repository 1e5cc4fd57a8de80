"""Reads single values from the configuration of a run, without a YAML parser, which would take many times as long.

Lists of runs, ``watch`` and the progress line of a sweep read the configurations of up to a thousand runs.
"""

import re
from collections.abc import Iterable
from functools import cache

import yaml


def scan_config(text: str, keys: Iterable[str]) -> dict[str, str]:
    """Return the values of the dotted ``keys`` in ``text``, the content of ``config.yaml``.

    A key is left out if ``text`` does not contain it, if its value is null, or if the value is not on the same line,
    such as a list. Values are text, as written but without quotes: ``0.1``, ``${oc.env:HOME}``. Of a long value that
    continues on the next line, only the beginning is returned.
    """
    matches = {key: _pattern(key).search(text) for key in keys}
    return {key: _unquoted(match[1]) for key, match in matches.items() if match is not None and match[1] != "null"}


@cache
def _pattern(key: str) -> re.Pattern[str]:
    """Return the pattern of the line that holds the value of ``key``, preceded by all lines of its nodes before it."""
    # OmegaConf writes one key per line, indented by two spaces for each level: "  lr: 0.1".
    *nodes, name = key.split(".")
    lines = "".join(
        rf"{' ' * 2 * level}{re.escape(node)}:\n(?:(?:{' ' * 2 * (level + 1)}.*+)?+\n)*?"
        for level, node in enumerate(nodes)
    )
    return re.compile(rf"^{lines}{' ' * 2 * len(nodes)}{re.escape(name)}: (.+)$", re.MULTILINE)


def _unquoted(value: str) -> str:
    if value[0] not in "'\"":
        return value
    try:
        return str(yaml.safe_load(value))
    except yaml.YAMLError:
        return value  # the closing quote is on the next line
