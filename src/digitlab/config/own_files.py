"""Checks the files in the ``conf/`` of the user's project that a command chooses, before Hydra reads them.

Hydra would answer these mistakes with a traceback, or would accept a file that has no effect. ``cli_errors`` calls it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError

from digitlab.core.errors import ConfigError
from digitlab.core.files import read_yaml

# The files of these groups set keys of the whole configuration.
_GLOBAL_GROUPS = ("experiment", "sweep", "debug")
_PACKAGE = "# @package _global_"


def check_own_files(group: str, names: Iterable[str], folder: Path) -> None:
    """Raise ``ConfigError`` if an option that the user chooses has a file that can't be used.

    ``names`` are the chosen options of ``group``, and ``folder`` is the user's ``conf/``. A name without a file there
    is no mistake here, because it can be an option of digitlab. Hydra reports wrong YAML.
    """
    for name in names:
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            _check_file(path, is_global=group in _GLOBAL_GROUPS)
        elif path.with_suffix(".yml").is_file():
            raise ConfigError(group, name, f"the name of its file must end in .yaml: {path.with_suffix('.yml')}")


def _check_file(path: Path, *, is_global: bool) -> None:
    try:
        content = read_yaml(path)
    except UnicodeDecodeError as error:
        raise ConfigError("", path, "is not text in UTF-8: save it in this encoding") from error
    except (OSError, YAMLError):
        return
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError("", path, "must contain keys with values, such as `channels: 8`")
    defaults: Any = (content or {}).get("defaults", [])
    if not isinstance(defaults, list) or not all(isinstance(each, str | Mapping) for each in defaults):
        raise ConfigError("", path, "defaults must be a list, such as `- override /model: lenet` in a line of its own")
    text = path.read_text(encoding="utf-8")
    # Some editors on Windows write this mark. Hydra then ignores the first line.
    if is_global and text.startswith("\ufeff"):
        raise ConfigError("", path, "begins with a byte order mark: save it as UTF-8 without one")
    # Hydra ignores this line if another comment comes before it.
    if is_global and not re.match(r"\s*#\s*@package\s", text):
        reason = "so that its keys are those of the whole configuration"
        raise ConfigError("", path, f"must begin with the line `{_PACKAGE}`, {reason}")
