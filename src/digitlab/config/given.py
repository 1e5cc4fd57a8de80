"""Networks that Python users pass to ``digitlab.train(model=...)``, found again by the identifier in a configuration.

A configuration holds plain values only. For a network that exists only as a Python object it holds the name of its
class and an identifier under the key ``_given_``; ``api.own_network`` remembers the object here, and ``build`` in
``compose`` looks it up. The identifier of a class begins with ``class:``, that of an instance with ``object:``.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

GIVEN = "_given_"
# digitlab passes these to every network of its own. Other networks need not take them.
FACTS = ("image_shape", "classes")
# The latest networks of this process. Older ones are forgotten, so that a long session does not fill the memory.
_MOST_REMEMBERED = 32


class Given:
    """Builds a network: calls ``make`` with its ``settings`` and with those of ``FACTS`` that it takes.

    ``name`` is the name of its class, for messages.
    """

    def __init__(self, make: Callable[..., Any], name: str, takes: Iterable[str]) -> None:
        self.make, self.__name__, self.takes = make, name, tuple(takes)
        self.parameters = list(dict.fromkeys([*FACTS, *self.takes]))

    @classmethod
    def of_class(cls, network_class: type) -> "Given":
        return cls(network_class, network_class.__name__, named_parameters(network_class))

    def __call__(self, **given: Any) -> Any:
        return self.make(**{name: value for name, value in given.items() if name not in FACTS or name in self.takes})


def named_parameters(network_class: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor that have a name; ``*args`` and ``**kwargs`` have none."""
    parameters = inspect.signature(network_class).parameters
    return {name: each for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}


_remembered: dict[str, Given] = {}


def remember(identifier: str, given: Given) -> None:
    """Let ``recall`` find ``given``; the same identifier again replaces it."""
    _remembered.pop(identifier, None)
    _remembered[identifier] = given
    while len(_remembered) > _MOST_REMEMBERED:
        del _remembered[next(iter(_remembered))]


def recall(identifier: object) -> Given | None:
    """Return what ``remember`` stored in this process, or None."""
    return _remembered.get(str(identifier))
