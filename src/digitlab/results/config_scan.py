"""Reads single values from the configuration of a run without a YAML parser, which takes twenty times as long.

``watch`` reads a thousand runs this way when it starts.
"""

import re
from collections.abc import Collection

# What OmegaConf writes: a mapping per line, two spaces deeper for each level.
_LINE = re.compile(r"( *)([\w.-]+):(?: (.+))?$")


def scan_config(text: str, keys: Collection[str]) -> dict[str, str]:
    """Return the values of those dotted ``keys`` that ``text``, the content of ``config.yaml``, gives on one line.

    Values are text, as written but without quotes: ``0.1``, ``null``, ``${oc.env:HOME}``.
    """
    found: dict[str, str] = {}
    path: list[str] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        del path[len(match[1]) // 2 :]
        path.append(match[2])
        if match[3] is not None and (key := ".".join(path)) in keys:
            found[key] = match[3].strip("'\"")
    return found
