"""Checks overrides, and turns Hydra's errors about them into one line that names the key and the likely fix.

``compose`` and ``command_line`` use it. A group is a folder in ``conf/``, such as ``optimizer``. The files in it, such
as ``sgd``, are its options: ``optimizer=sgd`` chooses one. In all functions, ``groups`` is the path of ``conf/``. This
module does not import torch.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digitlab.config.hydra_options import misplaced_key, refuse_node_as_option
from digitlab.config.overrides import split_override
from digitlab.config.own_files import check_own_files
from digitlab.config.place import own_conf, project_root, train_command
from digitlab.config.suggestions import (
    full_keys,
    nearest,
    nearest_option,
    not_needed,
    option_keys,
    options_with,
    similar_names,
    unknown,
)
from digitlab.config.unreadable_values import unreadable_value
from digitlab.core.errors import ConfigError
from digitlab.core.files import read_yaml

# Groups that accept a list of options, as in augment=[shift,flip]. Every other group accepts exactly one.
_LIST_GROUPS = ("augment", "debug", "experiment")
# An error message lists all options of a group, unless there are more than this: then the message would be too long.
_MOST_LISTED = 12
# The options of the command that choose what Hydra does, each with its long name. Only one of them can be given.
_COMMANDS = {
    "-r": "--run", "-m": "--multirun", "-c": "--cfg", "-i": "--info", "-sc": "--shell-completion",
    "--shell_completion": "--shell-completion",
}  # fmt: skip


def refuse_conflicting_options(arguments: Iterable[str]) -> None:
    """Raise ``ConfigError`` if the options exclude each other, for example ``-m`` and ``--cfg``."""
    options = [argument.partition("=")[0] for argument in arguments]
    # The same option may be given twice, for example as -m and as --multirun.
    long_names = dict.fromkeys(_COMMANDS.get(option, option) for option in options)
    commands = [name for name in long_names if name in _COMMANDS.values()]
    if len(commands) > 1:
        raise ConfigError("", " ".join(commands), "can't be given together; --cfg shows the configuration of one run")


def command_line_overrides(hydra: DictConfig | None = None) -> list[str]:
    """Return the overrides of the running Hydra job, or of the job with this ``hydra`` node; empty if no job runs."""
    if hydra is None and not HydraConfig.initialized():
        return []
    node = HydraConfig.get() if hydra is None else hydra
    # Interpolations stay as they are written, because the value of an environment variable can be a secret.
    overrides = OmegaConf.to_container(node.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


def check_overrides(overrides: Iterable[str], groups: Path) -> None:
    """Raise ``ConfigError`` for an override that is not ``KEY=VALUE`` or, for a group, whose value is not a name."""
    parser = OverridesParser.create()
    for text in overrides:
        key, value = split_override(text)
        if not key or ("=" not in text and not text.startswith("~")):
            raise ConfigError("", text or "''", _required_form(text, groups))
        if key != key.strip():
            written_key, equals, _ = text.partition("=")
            written = f"{''.join(written_key.split())}{equals}{value.strip()}"
            raise ConfigError("", text, f"must be written {written}, with no spaces around =")
        refuse_node_as_option(key, value)
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise unreadable_value(key, value) from error
        if key in group_names(groups):
            if not _may_be_names(override, several=key in _LIST_GROUPS):
                raise _no_such_name(key, value, _options(groups / key))
            if (own := own_conf(project_root())) is not None:
                check_own_files(key, re.findall(r"[^\s,\[\]()]+", value), own)


def _required_form(text: str, groups: Path) -> str:
    """Return how an override is written, and what the user may have meant: ``data=mnist`` by ``mnist``."""
    if not text:
        return "an argument is empty: leave it out"
    if text in ("train", "fit", "python", "train.py"):
        return "is not needed: leave it out"
    if text == "resume":
        return "must be written resume=RUN_FOLDER, or resume=auto for the newest run with the same settings"
    if text.endswith((".yaml", ".yml")):
        group = Path(text).parent.name or "GROUP"
        return f"names a file: an option is chosen by its name, as {group}={Path(text).stem}"
    if text in group_names(groups):
        return f"must be written {text}=NAME, where NAME is one of {', '.join(_options(groups / text))}"
    if os.path.isdir(os.path.join(text, ".hydra")):  # unlike ``Path.is_dir``, it also accepts very long texts
        return f"is the folder of a run: write resume={text} to continue it"
    suggestions = [f"{group}={text}" for group in group_names(groups) if text in _options(groups / group)]
    if match := re.fullmatch(r"([A-Za-z_.]+):(\S+)", text):
        suggestions = [f"{match[1]}={match[2]}"]
    hint = f" (did you mean `{suggestions[0]}`?)" if suggestions else ""
    return f"must be written KEY=VALUE{hint}"


def _may_be_names(override: Override, *, several: bool) -> bool:
    """Return whether the value of a group is a name or, with ``several``, a list of names.

    The values of a sweep count as names here: they are checked when each job is composed.
    """
    if override.is_sweep_override() or (override.is_delete() and override.value() is None):
        return True
    value = override.value()
    names = value if several and isinstance(value, list) else [value]
    # An option is the name of a file in conf/, and never an interpolation such as ${model}.
    return all(isinstance(name, str) and "$" not in name for name in names)


def group_names(groups: Path) -> list[str]:
    """Return the names of the groups that an override can choose an option of."""
    return sorted(path.name for path in groups.iterdir() if path.is_dir() and path.name != "hydra")


def group_table(*folders: Path) -> str:
    """Return a line for each group with its options in all ``folders`` of configuration, for ``--help``."""
    names = sorted({group for folder in folders for group in group_names(folder)})
    options = {name: sorted({each for folder in folders for each in _options(folder / name)}) for name in names}
    return "\n".join(f"  {group}: {', '.join(each)}" for group, each in options.items())


def _options(group: Path) -> list[str]:
    return sorted(path.stem for path in group.glob("*.yaml"))


def swept_values(override: str, groups: Path) -> dict[str, object]:
    """Return what ``sweep=NAME`` or ``experiment=NAME`` sweeps over: the keys and values of its search space.

    Returns an empty dict for any other override and for a file without a search space.
    """
    group, _, name = override.partition("=")
    path = groups / group / f"{name}.yaml"
    if group not in ("sweep", "experiment") or not path.is_file():
        return {}
    content = read_yaml(path)
    params = OmegaConf.select(OmegaConf.create(content or {}), "hydra.sweeper.params")
    return dict(params) if params else {}


def _no_such_name(group: str, name: str, names: Sequence[str]) -> ConfigError:
    if group == "data" and "/" in name:
        return ConfigError(group, name, f"is a path: write data=folder data.path={name}")
    if len(names) > _MOST_LISTED:
        similar = ", ".join(similar_names(name, names))
        allowed = (
            f"no such name; the most similar are {similar}; {' '.join(train_command())} --help lists all {len(names)}"
        )
        if group == "sweep":
            allowed += f"; sweep.name={name} would name the folder of a sweep"
        return ConfigError(group, name, allowed)
    # The name of an option can be a path: model=lab/lenet.yaml.
    similar = nearest_option(group, Path(name).stem if "/" in name else name, names)
    return ConfigError(group, name, f"must be one of {', '.join(names)}{similar}")


def explain_hydra_error(
    error: Exception, overrides: Iterable[str], keys: Sequence[str], groups: Path, *, default_keys: Sequence[str] = ()
) -> ConfigError:
    """Return a one-line error for an exception of Hydra or OmegaConf, with the key, its value and the likely fix.

    ``overrides`` are the overrides of the command. ``keys`` are all dotted keys of the configuration with the options
    that the command chooses, ``default_keys`` those with the default options.
    """
    text = " ".join(str(error).split())
    values = dict(split_override(override) for override in overrides)
    if isinstance(error, OverrideParseException):
        return ConfigError("", error.override, _required_form(error.override, groups))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        # The names of Hydra's own groups have two parts, as hydra/sweeper.
        of_hydra, group, name = re.findall(r"^(hydra/)?([^/]+)/?(.*)", error.missing_cfg_file)[0]
        return _no_such_name(of_hydra + group, name, error.options or _options(groups / f"{of_hydra}{group}"))
    if match := re.search(r"Could not (override|append|delete)[^']*'([^']+)'", text):
        key = match[2]
        if match[1] == "append":
            return ConfigError(key, values.get(key), "is there already: write it without the +")
        parent = key.rpartition(".")[0]
        # A node that an option sets to null has no keys, but the default option has this key.
        is_empty = not any(each.startswith(f"{parent}.") for each in keys)
        if values.get(parent) == "null" or (parent in keys and is_empty and key in default_keys):
            return ConfigError(key, values.get(key), f"has no effect: {parent} is null, which turns it off")
        return _no_such_key(key, values, keys, groups)
    if match := re.search(r"Multiple values for (\S+)\.|(\S+) appears more than once", text):
        key = match[1] or match[2]
        added = any(override.startswith(f"+{key}=") for override in overrides)
        allowed = "is there already: write it without the +" if added else "is given twice"
        return ConfigError(key, values.get(key), allowed)
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^'=]+)=", text):
        one_name = match[1] in group_names(groups) and match[1] not in _LIST_GROUPS
        return _several_values(match[1], values.get(match[1], ""), may_be_list=not one_name)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return ConfigError(error.full_key, values.get(error.full_key, "?"), str(error.msg).splitlines()[0])
    if match := re.search(r"Error merging override ([\w.]+)=", text):
        return _not_a_node(match[1], values, keys)
    # Hydra's other errors name no key. If an override removes a key, that is the likely cause.
    removed = [split_override(override)[0] for override in overrides if override.startswith("~")]
    any_cause = ConfigError("", "the configuration", f"can't be composed: {text}")
    return ConfigError(removed[0], None, "must be given") if removed else any_cause


def _not_a_node(key: str, values: Mapping[str, str], keys: Sequence[str]) -> ConfigError:
    """Return the error for ``KEY=VALUE`` if the key is a node, so that it has keys of its own and no value."""
    names = [each for each in keys if each.startswith(f"{key}.")] or [f"+{key}.NAME._target_"]
    allowed = f"has keys of its own, set one by one: {'=VALUE, '.join(names)}=VALUE"
    return ConfigError(key, values.get(key, "?"), allowed)


def _several_values(key: str, value: str, *, may_be_list: bool) -> ConfigError:
    if "(" in value or not may_be_list:
        return ConfigError(key, value, "is several values: add -m, and each of them is a run")
    allowed = f"is several values: with -m each value is a run; one list is [{value}]"
    # A decimal comma. In seed=0,1 and data.fold=0,1 nobody means one.
    if re.fullmatch(r"-?0,\d+", value) and not key.endswith(("seed", "fold")):
        allowed += f"; one number is {value.replace(',', '.')}"
    return ConfigError(key, value, allowed)


def _no_such_key(key: str, values: Mapping[str, str], keys: Sequence[str], groups: Path) -> ConfigError:
    """Return the error for a ``key`` that Hydra could not change, with the first explanation below that fits.

    ``values`` are those of the overrides, by key.
    """
    if key in keys:  # the override is ~KEY=VALUE, and VALUE is not the value of the key
        return ConfigError(key, values.get(key), "must be given: it can't be removed")
    if (error := misplaced_key(key, values.get(key))) is not None:
        return error
    parent, _, name = key.rpartition(".")
    siblings = [path.removeprefix(f"{parent}.") for path in keys if path.startswith(f"{parent}.")]
    siblings = [path for path in siblings if "." not in path and path != "_target_"]
    value = values.get(key, "?")  # a key that is not among the overrides is in a file
    options = " or ".join(options_with(key, groups))
    hint = f"; it exists with {options}" if options else ""
    if reason := not_needed(key):
        return ConfigError(key, value, f"no such key: {reason}")
    if siblings:
        where = f" in {parent}={values[parent]}" if parent in values else ""
        error = unknown(name, value, siblings, under=parent, where=where)
        elsewhere = "" if options or "did you mean" in error.allowed else _elsewhere(key, values, keys, groups)
        return ConfigError(key, value, error.allowed + hint + elsewhere)
    keys_of_options = option_keys(groups)
    if parent in keys and key not in keys_of_options:
        return ConfigError(key, value, f"no such key: a new one is written +{key}=VALUE")
    # The user typed only the end of a key, as in lr=0.1, or its name in other programs, as in epochs=5.
    if meant_keys := full_keys(key, keys):
        written = [_written(each, values.get(key), groups) for each in meant_keys]
        return ConfigError(key, value, f"no such key: write {' or '.join(written)}")
    # The same for a key that exists only with other options, as in momentum=0.9.
    if meant_keys := full_keys(key, keys_of_options):
        written = [f"{_with_options(each, groups)} {_written(each, values.get(key), groups)}" for each in meant_keys]
        return ConfigError(key, value, f"no such key: write {' or '.join(written)}")
    # augment.shift.padding exists as soon as the option of its group is chosen.
    node = parent if parent in keys_of_options else key
    if names := [each.removeprefix(f"{node}.") for each in keys_of_options if each.startswith(f"{node}.")]:
        needed = _with_options(node, groups)
        return ConfigError(key, value, f"no such key without {needed}, which has {', '.join(names)}")
    hint = (nearest(key, [*keys, *group_names(groups)]) or _elsewhere(key, values, keys, groups)) + hint
    return ConfigError(key, value, f"no such key{hint or '; python train.py --help lists all keys'}")


def _elsewhere(key: str, values: Mapping[str, str], keys: Sequence[str], groups: Path) -> str:
    """Return ``; write optimizer.lr=0.1`` for ``scheduler.lr=0.1``, a name that exists at another place, or nothing."""
    parent, _, name = key.rpartition(".")
    if name in ("name", "type", "kind") and parent in group_names(groups):  # model.type=mlp means model=mlp
        return f"; write {parent}={'|'.join(_options(groups / parent))}"
    places = [name] if name in group_names(groups) else full_keys(name, keys)
    if not places:  # ``name`` may be a node: show its first key
        places = [each for each in keys if each.startswith(f"{name}.")][:1]
    written = [_written(each, values.get(key), groups) for each in places]
    return f"; write {' or '.join(written)}" if written else ""


def _with_options(key: str, groups: Path) -> str:
    """Return ``optimizer=muon|rmsprop|sgd``, the options that have ``key``."""
    options = options_with(key, groups)
    return f"{key.partition('.')[0]}={'|'.join(option.partition('=')[2] for option in options)}"


def _written(key: str, value: str | None, groups: Path) -> str:
    """Return ``KEY=VALUE``; the options of ``key`` if it is a group without this one; the key if there is no value."""
    if value is None or (key in group_names(groups) and value not in _options(groups / key)):
        return f"{key}={'|'.join(_options(groups / key))}" if key in group_names(groups) else key
    return f"{key}={value}"
