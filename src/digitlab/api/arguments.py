"""Checks the arguments of the functions for Python users, and says in one line what the user probably means."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from digitlab.config.compose import compose
from digitlab.config.suggestions import nearest
from digitlab.core.errors import ConfigError, show

P = ParamSpec("P")
T = TypeVar("T")

_PLAIN = (type(None), bool, int, float, str)


def brief(value: object) -> str:
    """Return a number or text as a user types it, and the type of anything else, such as ``<DataFrame>``."""
    return show(value) if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"


def given_path(folder: Any, argument: str = "folder") -> Path:
    """Return the path of a folder or file, given as a text, as a path, or as a ``Run`` or ``Sweep``.

    Raises ``ConfigError``, which names the ``argument``, for anything else.
    """
    path = getattr(folder, "path", folder)
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ConfigError(argument, brief(folder) or "''", "must be a path, as a text or a pathlib.Path")
    return Path(path).expanduser()


@contextmanager
def options_as_arguments() -> Iterator[None]:
    """Within this context, errors name the arguments of Python users in place of options: ``out`` for ``--out``."""
    try:
        yield
    except ConfigError as error:
        allowed = error.allowed.replace("--key KEY", "key=...")
        # compare_runs(SWEEP, "optimizer.lr")
        if error.key == "FOLDER" and re.fullmatch(r"\w+(\.\w+)*", str(error.value)) and "no such folder" in allowed:
            allowed += f'; the values of a key are compared with key="{error.value}"'
        name = {"--input": "pixels", "FOLDER": "runs"}.get(error.key, error.key.removeprefix("--"))
        raise ConfigError(name, error.value, allowed) from error


def explain_unknown_arguments(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator for the function that users call by ``name``.

    If the function gets an argument that it does not have, a ``TypeError`` says how to write it. For
    ``digitlab.train(lr=0.1)``, whose settings are texts, this is ``"optimizer.lr=0.1"``.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        parameters = inspect.signature(function).parameters
        # Those that begin with * have no name for callers.
        names = [name for name, parameter in parameters.items() if parameter.kind != parameter.VAR_POSITIONAL]

        @functools.wraps(function)
        def checked(*arguments: P.args, **named: P.kwargs) -> T:
            for argument, value in named.items():
                if argument not in names:
                    raise TypeError(_unknown(name, argument, value, names, takes_settings="overrides" in parameters))
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
