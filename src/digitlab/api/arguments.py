"""Checks the arguments of the functions for Python users, and says in one line what the user probably means."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from digitlab.config.compose import compose
from digitlab.config.suggestions import nearest
from digitlab.core.errors import ConfigError, show
from digitlab.core.files import expand_home, path_text

P = ParamSpec("P")
T = TypeVar("T")

_PLAIN = (type(None), bool, int, float, str)
# The arguments of Python users whose option or word on the command line has another name.
_ARGUMENTS = {"--input": "pixels", "FOLDER": "runs", "RUN_FOLDER": "folder", "SWEEP_FOLDER": "folder"}


def brief(value: object) -> str:
    """Return a number or text as a user types it, and the type of anything else, such as ``<DataFrame>``."""
    return show(value) if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"


def given_path(folder: Any, argument: str = "folder") -> Path:
    """Return the path of a folder or file, given as a text, as a path, or as a ``Run`` or ``Sweep``.

    Raises ``ConfigError``, which names the ``argument``, for anything else, and for a text that can't be a path.
    """
    path = getattr(folder, "path", folder)
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise ConfigError(argument, brief(folder) or "''", "must be a path, as a text or a pathlib.Path")
    try:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.stat(text)
    except (OSError, ValueError) as error:
        # The text is too long, or contains the character 0.
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(argument, path_text(text), f"is no path: {reason}") from error
    return expand_home(text)


@contextmanager
def options_as_arguments() -> Iterator[None]:
    """Within this context, errors name the arguments of Python users in place of options: ``out`` for ``--out``."""
    try:
        yield
    except ConfigError as error:
        allowed = re.sub(r"--to (\w+)", r'to="\1"', error.allowed.replace("--key KEY", "key=..."))
        # compare_runs(SWEEP, "optimizer.lr")
        if error.key == "FOLDER" and re.fullmatch(r"\w+(\.\w+)*", str(error.value)) and "no such folder" in allowed:
            allowed += f'; the values of a key are compared with key="{error.value}"'
        name = _ARGUMENTS.get(error.key, error.key.removeprefix("--"))
        raise ConfigError(name, error.value, allowed) from error


def explain_unknown_arguments(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator for the function or method that users call by ``name``.

    If it gets an argument that it does not have, a ``TypeError`` says how to write it. For ``digitlab.train(lr=0.1)``,
    whose settings are texts, this is ``"optimizer.lr=0.1"``. The same error says which arguments are missing or too
    many.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        parameters = signature.parameters
        # Those that begin with * have no name for callers, and callers of a method do not pass its object.
        names = [
            name
            for name, parameter in parameters.items()
            if parameter.kind != parameter.VAR_POSITIONAL and name != "self"
        ]

        @functools.wraps(function)
        def checked(*arguments: P.args, **named: P.kwargs) -> T:
            for argument, value in named.items():
                if argument not in names:
                    raise TypeError(_unknown(name, argument, value, names, takes_settings="overrides" in parameters))
            try:
                signature.bind(*arguments, **named)
            except TypeError as error:
                raise TypeError(f"{name}: {error}; its arguments are {', '.join(names) or 'none'}") from None
            return function(*arguments, **named)

        return checked

    return decorate


def _unknown(function: str, argument: str, value: object, names: list[str], *, takes_settings: bool) -> str:
    start = f"{argument}={brief(value)}: {function} has no such argument"
    if argument in ("overrides", "runs"):
        return f"{start} by name; write {function}(*{argument})"
    similar = nearest(argument, names)
    if takes_settings and not similar and (setting := _setting(argument, value)):
        return f'{start}; settings are texts: {function}("{setting}")'
    return f"{start}{similar}; it has {', '.join(names)}"


def _setting(name: str, value: object) -> str | None:
    """Return the override that sets ``name`` to ``value``, with the whole key: ``optimizer.lr=0.1`` for ``lr``.

    Returns None if no setting has a similar name.
    """
    values = ",".join(map(show, value)) if isinstance(value, list | tuple | range) else show(value)
    text = f"{name}={values}"
    try:
        compose([f"{name}={show(value)}"])
    except ConfigError as error:
        if meant := re.search(r"(?:write |did you mean `)([\w.]+)=?", error.allowed):
            return f"{meant[1]}={values}"
        if "no such key" in error.allowed:
            return None
    return text
