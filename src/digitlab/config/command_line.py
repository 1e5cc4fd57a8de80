"""Reads the arguments of ``train.py`` before Hydra does, and rejects what Hydra would reject in a less helpful way.

``cli.train``, ``digitlab show`` and the Python functions call ``read_arguments``. An argument is an option, such as
``-m`` or ``--help``, or an override ``KEY=VALUE``.
"""

import argparse
import re
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from digitlab.config.cli_errors import (
    check_overrides,
    group_names,
    refuse_conflicting_options,
    swept_values,
)
from digitlab.config.compose import CONF, compose, known_keys
from digitlab.config.hydra_options import check_completion, check_config_folder, refuse_unused_options
from digitlab.config.quoting import quote_path
from digitlab.config.suggestions import full_keys, nearest, option_keys
from digitlab.config.unreadable_values import as_list
from digitlab.core.errors import ConfigError


def read_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments in the form that Hydra needs: options first, and paths in quotes where necessary.

    In a sweep, some overrides ``KEY=VALUE`` become ``KEY=choice(VALUE)``, so that Hydra applies them only to the jobs,
    not to the configuration of the whole sweep, in which the key may be missing. Raises ``ConfigError`` for unknown
    options, spaces around ``=``, and overrides that cannot be parsed.
    """
    if "-sc" in arguments or "--shell-completion" in arguments:
        check_completion(arguments)
        return list(arguments)  # for tab completion: the last word may be incomplete, so nothing is checked
    options, overrides = _split(arguments)
    refuse_conflicting_options(options)
    actions = get_args_parser()._option_string_actions
    refuse_unused_options(
        {action.dest for word in options if word.startswith("-") and (action := _action(word, actions))}
    )
    overrides = [quote_path(override) for override in overrides]
    check_overrides(overrides, CONF)
    if "-m" in options or "--multirun" in options:
        overrides = _defer_to_jobs(overrides)
    return [*options, *overrides]


def undeferred(override: str) -> str:
    """Return ``KEY=VALUE`` for ``KEY=choice(VALUE)`` with a single value, and any other override unchanged.

    It undoes what ``read_arguments`` does to the overrides of a sweep.
    """
    key, _, value = override.partition("=")
    if not value.startswith("choice("):
        return override
    values = list(OverridesParser.create().parse_override(override).sweep_string_iterator())
    return f"{key}={values[0]}" if len(values) == 1 else override


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate options (with their values) from overrides. argparse by itself allows no override after an option."""
    actions = get_args_parser()._option_string_actions
    options: list[str] = []
    overrides: list[str] = []
    unread = list(arguments)
    while unread:
        word = unread.pop(0)
        following = unread[0] if unread else ""
        if not word.startswith("-"):
            _refuse_spaces(word, unread)
            _refuse_divided_list(word, unread)
            _refuse_divided_values(word, overrides)
            overrides.append(word)
            continue
        action = _action(word, actions)
        if action is None:
            raise _no_such_option(word, following)
        if word.startswith("--"):
            # Hydra reads the options again and must not meet an abbreviation such as --multi.
            name, equals, value = word.partition("=")
            name = next(option for option in actions if option.startswith(name))
            word = name + equals + value
        _check_option(word, following, action)
        options.append(word)
        # In argparse, None means exactly one value, and "?" an optional one, which must be one of the choices.
        takes_value = action.nargs is None or (action.nargs == "?" and following in (action.choices or ()))
        if takes_value and unread and "=" not in word and word in actions:
            options.append(unread.pop(0))
    return options, overrides


def _action(word: str, actions: dict[str, argparse.Action]) -> argparse.Action | None:
    """Return argparse's action for the option in ``word``, or None if there is no such option."""
    name = word.partition("=")[0]
    if name in actions:
        return actions[name]
    # argparse also accepts abbreviations (--multi) and values attached to short options (-cjob).
    abbreviated = {action for option, action in actions.items() if name.startswith("--") and option.startswith(name)}
    if abbreviated:
        return abbreviated.pop() if len(abbreviated) == 1 else None
    short_option = actions.get(name[:2])
    return short_option if short_option is not None and short_option.nargs is None else None


def _check_option(word: str, following: str, action: argparse.Action) -> None:
    """Raise ``ConfigError`` if the option in ``word`` does not take its value: after ``=``, or the ``following`` word.

    argparse would print its usage in ten lines.
    """
    name, equals, value = word.partition("=")
    if action.nargs == 0:
        if equals:
            raise ConfigError("", word, f"the option takes no value: write {name}")
        return
    choices = list(action.choices or ())
    allowed = f"must be one of {', '.join(map(str, choices))}{nearest(value or following, choices)}"
    if action.nargs is None and not equals and name in action.option_strings:
        if not following or following.startswith("-") or (choices and "=" in following):
            needed = f"one of {', '.join(choices)}" if choices else "a value"
            raise ConfigError("", word, f"the option needs {needed}, as {word} {choices[0] if choices else 'VALUE'}")
        equals, value = "=", following
    if equals and choices and value not in choices:
        raise ConfigError(name, value, allowed)
    if action.dest == "config_dir":
        check_config_folder(value if equals else word.removeprefix("-cd"))


def _refuse_divided_list(word: str, following: Sequence[str]) -> None:
    """Raise ``ConfigError`` for ``KEY=[a, b]``, which the shell passes as two words."""
    key, _, value = word.partition("=")
    closing = {"[": "]", "(": ")"}.get(value[:1])
    if closing is None or closing in value:
        return
    words = [word]
    for each in following:
        if "=" in each or each.startswith("-"):
            return
        words.append(each)
        if closing in each:
            text = " ".join(words)
            raise ConfigError("", text, f"must be written {key}={as_list(text.partition('=')[2])}, without spaces")


def _refuse_divided_values(word: str, overrides: Sequence[str]) -> None:
    """Raise ``ConfigError`` for ``seed=1 2``, in which the second ``word`` belongs to the last of the ``overrides``."""
    if overrides and re.fullmatch(r"[\d.][-\d.,e]*", word) and re.search(r"=\S*\d,?$", overrides[-1]):
        values = f"{overrides[-1].rstrip(',')},{word.strip(',')}"
        allowed = f"several values of a sweep are written -m {values}, without spaces"
        raise ConfigError("", f"{overrides[-1]} {word}", allowed)


def _refuse_spaces(word: str, following: Sequence[str]) -> None:
    """Raise ``ConfigError`` for ``KEY = VALUE`` and ``KEY VALUE``, which the shell passes as two or three words."""
    second, third = [*following, "", ""][:2]
    if word.startswith(("–", "—")):  # some text editors turn -- into a dash
        raise ConfigError(
            "", word, f"begins with a dash, options with a hyphen: write {word.replace('—', '--').replace('–', '-')}"
        )
    # The two words are "optimizer lr=0.1".
    if "=" not in word and "=" in second and _keys_of(f"{word}.{second.partition('=')[0]}"):
        raise ConfigError("", f"{word} {second}", f"must be written {word}.{second}")
    # The two words are "lr 0.1".
    if second and not any("=" in each or each[0] in "-~+" for each in (word, second)) and (keys := _keys_of(word)):
        written = " or ".join(f"{key}={second}" for key in keys)
        raise ConfigError("", f"{word} {second}", f"must be written {written}")
    second_is_value = bool(second) and "=" not in second and not second.startswith("-")
    words = [word, second]
    if second == "=":  # KEY = VALUE
        words.append(third)
    # The other cases are "KEY =VALUE" and "KEY= VALUE".
    elif not (second.startswith("=") and "=" not in word) and not (word.endswith("=") and second_is_value):
        return
    joined = "".join(words)
    raise ConfigError("", " ".join(words), f"must be written {joined}, with no spaces around =")


def _no_such_option(word: str, following: str) -> ConfigError:
    # Many programs have options such as --batch-size 32. The message shows the setting that the user may have meant.
    name, _, value = word.lstrip("-").replace("-", "_").partition("=")
    if not value and following and "=" not in following and not following.startswith("-"):
        word, value = f"{word} {following}", following
    keys = _keys_of(name)
    if keys and not value:  # --dry-run means sweep.dry_run=true
        value = "true" if isinstance(OmegaConf.select(compose(), keys[0]), bool) else "VALUE"
    hint = f"write {' or '.join(f'{key}={value}' for key in keys)}" if keys else "settings are written KEY=VALUE"
    return ConfigError("", word, f"no such option: {hint}")


def _keys_of(name: str) -> list[str]:
    """Return the keys and groups that ``name`` can stand for: ``optimizer.lr`` for ``lr``."""
    keys = known_keys(())
    if name in keys or name in group_names(CONF):
        return [name]
    return full_keys(name, keys) or full_keys(name, option_keys(CONF))


def _defer_to_jobs(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a sweep, changed so that Hydra applies some of them only to the jobs.

    Before the jobs, Hydra composes a configuration of the whole sweep. It leaves out all choices there, so each swept
    group has its default option. In ``-m optimizer=sgd,rmsprop optimizer.momentum=0.9`` that is Adam, which has no
    momentum: Hydra would refuse the key. So the override of a key that the default option lacks becomes a choice of one
    value, ``optimizer.momentum=choice(0.9)``.
    """
    parser = OverridesParser.create()
    parsed = {override: parser.parse_override(override) for override in overrides if "=" in override}
    groups = group_names(CONF)
    swept = {each.key_or_group for each in parsed.values() if each.is_sweep_override()}
    # sweep=NAME and experiment=NAME can choose a file with a search space.
    swept |= {key for override in overrides for key in swept_values(override, CONF)}
    swept &= set(groups)
    overrides_in_swept_groups = [
        override
        for override, each in parsed.items()
        if each.key_or_group.partition(".")[0] in swept and "." in each.key_or_group
        and not each.is_sweep_override() and override[:1] not in "+~"
    ]  # fmt: skip
    if not overrides_in_swept_groups:
        return list(overrides)
    chosen_options = [
        override for override, each in parsed.items() if each.key_or_group in groups and not each.is_sweep_override()
    ]
    keys = known_keys(chosen_options)
    deferred = {override for override in overrides_in_swept_groups if override.partition("=")[0] not in keys}
    return [_as_choice(override) if override in deferred else override for override in overrides]


def _as_choice(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}=choice({value})"
