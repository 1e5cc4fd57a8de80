"""Reads single values from the configuration of a run. It uses no YAML parser, which would take twenty times as long.

``digitlab watch`` reads the configurations of all runs when it starts, and these can be a thousand.
"""

import re
from collections.abc import Collection

# OmegaConf writes one key per line, indented by two spaces for each level: "  lr: 0.1".
_LINE = re.compile(r"( *)([\w.-]+):(?: (.+))?$")


def scan_config(text: str, keys: Collection[str]) -> dict[str, str]:
    """Return the values of the dotted ``keys`` in ``text``, the content of ``config.yaml``.

    A key is left out if ``text`` does not contain it, or if its value is not on the same line, such as a list. Values
    are text, as written but without quotes: ``0.1``, ``null``, ``${oc.env:HOME}``.
    """
    values: dict[str, str] = {}
    # The names of the nodes that contain the current line, and the name on this line.
    path: list[str] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        del path[len(match[1]) // 2 :]
        path.append(match[2])
        if match[3] is not None and (key := ".".join(path)) in keys:
            values[key] = match[3].strip("'\"")
    return values
