"""Refuses options and settings of Hydra that digitlab does not use, or that Hydra would answer with a traceback.

``command_line`` calls it for the arguments of ``train.py`` before Hydra reads them.
"""

import os
import re
from collections.abc import Collection, Sequence

from digitlab.config.place import train_command
from digitlab.config.suggestions import RENAMED_KEYS
from digitlab.core.errors import ConfigError

# Options of Hydra by their name in its parser, and what to do instead.
_UNUSED = {
    "config_name": "digitlab has one configuration: choose options of its groups, as experiment=NAME",
    "config_path": "digitlab's own configuration is always used: --config-dir FOLDER adds options of your own",
    "experimental_rerun": (
        "is not supported: resume=RUN_FOLDER continues a run, and its result.json has the command that repeats it"
    ),
}
# These options change what --cfg shows. Hydra would answer them without --cfg with a traceback, or ignore them.
_OF_CFG = ("package", "resolve")
# What Hydra's tab completion can do.
_COMPLETION = ("install=", "uninstall=", "query=")


def refuse_unused_options(dests: Collection[str]) -> None:
    """Raise ``ConfigError`` for an option that has no effect; ``dests`` are the names in Hydra's parser."""
    for dest, reason in _UNUSED.items():
        if dest in dests:
            raise ConfigError("", f"--{dest.replace('_', '-')}", reason)
    for dest in _OF_CFG:
        if dest in dests and "cfg" not in dests:
            raise ConfigError("", f"--{dest}", "has no effect without --cfg: write --cfg job too")


def check_config_folder(folder: str) -> None:
    """Raise ``ConfigError`` if the value of ``--config-dir`` is no folder."""
    if not os.path.isdir(folder):  # for ``Path``, an empty name is the current folder
        allowed = "there is no such folder; it must contain a folder for each group, as FOLDER/model/mine.yaml"
        raise ConfigError("--config-dir", folder, allowed)


def check_completion(arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` for a command for tab completion that does not say what to do."""
    if not any(argument.startswith(_COMPLETION) for argument in arguments):
        command = " ".join([*train_command(), "--shell-completion"])
        raise ConfigError("", "--shell-completion", f"must say what to do: {command} install=bash (or zsh, or fish)")


def refuse_node_as_option(key: str, value: str) -> None:
    """Raise ``ConfigError`` for ``hydra.sweeper=optuna``: options of Hydra's groups are chosen with a slash."""
    group = re.fullmatch(r"hydra\.(sweeper|launcher)", key)
    if group is not None and re.fullmatch(r"\w+", value):
        raise ConfigError(key, value, f"is chosen with a slash: write hydra/{group[1]}={value}")


def misplaced_key(key: str, value: str | None) -> ConfigError | None:
    """Return the error for a ``key`` that does not exist and that has to be written in another way, or None.

    ``value`` is None if the key is not on the command line but in a file.
    """
    # Hydra's full name of a group that a file of experiment/ overrides is experiment/model@model.
    if "@" in key and value is None:
        name = key.rpartition("@")[2].replace(".", "/")
        allowed = f"is written with a slash in the defaults of your file: `- override /{name}: NAME`"
        return ConfigError("", f"override {name}", allowed)
    shown = "?" if value is None else value
    if key.startswith("callbacks."):
        new_key = f"+callbacks.{key.split('.')[1]}._target_"
        return ConfigError(key, shown, f"no such callback: a new one is written with a +, as {new_key}=CLASS")
    return ConfigError(key, shown, f"is now {RENAMED_KEYS[key]}") if key in RENAMED_KEYS else None
