"""What Hydra refuses of the words of a command line, told in one line that names the key.

``digitlab.config.compose`` and ``train.py`` come here; nothing here imports torch.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digitlab.config.schema import nearest, unknown
from digitlab.core.errors import ConfigError

# Groups of which several names can be chosen at once, as augment=[shift,flip]; a run has one of each other.
_SEVERAL = ("augment", "debug", "experiment")
# What Hydra does instead of one run; it can do one of them at a time.
_COMMANDS = {
    "-r": "--run", "-m": "--multirun", "-c": "--cfg", "-i": "--info", "-sc": "--shell-completion",
    "--shell_completion": "--shell-completion",
}  # fmt: skip


def refuse_two_commands(arguments: Iterable[str]) -> None:
    """Raise ``ConfigError`` where ``arguments`` ask for two things at once, such as a sweep and ``--cfg``."""
    options = [argument.partition("=")[0] for argument in arguments]
    asked = dict.fromkeys(_COMMANDS.get(option, option) for option in options)
    asked_for = [option for option in asked if option in _COMMANDS.values()]
    if len(asked_for) > 1:
        raise ConfigError("", " ".join(asked_for), "can't be given together; --cfg shows the configuration of one run")


def command_line_overrides(hydra: DictConfig | None = None) -> list[str]:
    """What was typed for the running Hydra job, or for the one whose node ``hydra`` this is; empty where none runs."""
    if hydra is None and not HydraConfig.initialized():
        return []
    node = HydraConfig.get() if hydra is None else hydra
    # Unresolved: a ${...} is meant for the configuration, and may tell of the environment.
    overrides = OmegaConf.to_container(node.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


def refuse_unreadable(overrides: Iterable[str], groups: Path) -> None:
    """Refuse what is no ``KEY=VALUE``, and for a group what is no name; ``groups`` is the folder of the groups.

    Raises ``ConfigError``.
    """
    parser = OverridesParser.create()
    for text in overrides:
        key, value = _split(text)
        if not key or ("=" not in text and not text.startswith("~")):
            raise ConfigError("", text, "must be written KEY=VALUE")
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            allowed = "can't be read: brackets and quotes must be closed, a list is written [64,64]"
            raise ConfigError(key, value, allowed) from error
        if key in group_names(groups) and not _may_be_names(override, several=key in _SEVERAL):
            raise _no_such_name(key, value, _options(groups / key))


def _may_be_names(override: Override, *, several: bool) -> bool:
    """Whether the value of a group is a name or a list of them; of a sweep each job is asked."""
    if override.is_sweep_override() or (override.is_delete() and override.value() is None):
        return True
    value = override.value()
    names = value if several and isinstance(value, list) else [value]
    return all(isinstance(name, str) and "$" not in name for name in names)


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def group_names(groups: Path) -> list[str]:
    """The groups that a command line can choose from."""
    return sorted(path.name for path in groups.iterdir() if path.is_dir() and path.name != "hydra")


def group_table(groups: Path) -> str:
    """A line for each group with the names there are, for ``--help``."""
    return "\n".join(f"  {group}: {', '.join(_options(groups / group))}" for group in group_names(groups))


def _options(group: Path) -> list[str]:
    return sorted(path.stem for path in group.glob("*.yaml"))


def _no_such_name(group: str, name: str, names: Sequence[str]) -> ConfigError:
    return ConfigError(group, name, f"must be one of {', '.join(names)}{nearest(name, names)}")


def hydra_refusal(error: Exception, overrides: Iterable[str], keys: Sequence[str], groups: Path) -> ConfigError:
    """What Hydra or OmegaConf say over several lines as one that names the key, the value and the nearest right name.

    ``overrides`` are what was typed, ``keys`` the dotted paths there are, ``groups`` the folder of the groups.
    """
    text = " ".join(str(error).split())
    typed = dict(_split(override) for override in overrides)
    if isinstance(error, OverrideParseException):
        return ConfigError("", error.override, "must be written KEY=VALUE")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return _no_such_name(group, name, error.options or _options(groups / group))
    if match := re.search(r"Could not (override|append|delete)[^']*'([^']+)'", text):
        key = match[2]
        if match[1] == "append":
            return ConfigError(key, typed.get(key), "is there already: write it without the +")
        return _no_such_key(key, typed, keys, group_names(groups))
    if match := re.search(r"Multiple values for (\S+)\.|(\S+) appears more than once", text):
        key = match[1] or match[2]
        return ConfigError(key, typed.get(key), "is there already: write it without the +")
    if match := re.search(r"Ambiguous value for argument '([^'=]+)=", text):
        allowed = f"is several values: {match[1]}=[{typed.get(match[1])}] is one list, and with -m each value is a run"
        return ConfigError(match[1], typed.get(match[1]), allowed)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return ConfigError(error.full_key, typed.get(error.full_key, "?"), str(error.msg).splitlines()[0])
    if deleted := [override for override in overrides if override.startswith("~")]:
        return ConfigError(_split(deleted[0])[0], None, "must be given")
    return ConfigError("", "the configuration", f"can't be composed: {text}")


def _no_such_key(key: str, typed: Mapping[str, str], keys: Sequence[str], groups: Sequence[str]) -> ConfigError:
    if key in keys:  # with another value than the one to be deleted
        return ConfigError(key, typed.get(key), "must be given: it can't be taken away")
    parent, _, name = key.rpartition(".")
    siblings = [path.removeprefix(f"{parent}.") for path in keys if path.startswith(f"{parent}.")]
    siblings = [path for path in siblings if "." not in path and path != "_target_"]
    value = typed.get(key, "?")  # typed nowhere: it stands in a file
    if siblings:
        return unknown(
            name, value, siblings, under=parent, where=f" in {parent}={typed[parent]}" if parent in typed else ""
        )
    if parent in keys:
        return ConfigError(key, value, f"no such key: one that is new is written +{key}=VALUE")
    return ConfigError(key, value, f"no such key{nearest(key, [*keys, *groups])}")
