"""Remembers the networks that Python users pass to ``digitlab.train(model=...)``, each under an identifier.

A configuration holds only plain values. For such a network it holds the name of its class and, under the key
``_given_``, the identifier. ``api.own_network`` remembers the network here, and ``build`` in ``compose`` looks it up.
The identifier of a class begins with ``class:``, that of an instance with ``object:``.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

GIVEN = "_given_"
# The facts about the data set that digitlab passes to every network of its own. Users' networks need not take them.
FACTS = ("image_shape", "classes")
# Only this many networks, the latest ones, are remembered, so that a long session does not fill the memory.
_MOST_REMEMBERED = 32


class GivenNetwork:
    """Builds a user's network by calling ``make`` with its settings and with those ``FACTS`` that it takes.

    ``takes`` are the names of the parameters of ``make``. ``name`` is the name of the network's class, for messages.
    """

    def __init__(self, make: Callable[..., Any], name: str, takes: Iterable[str]) -> None:
        self.make, self.__name__, self.takes = make, name, tuple(takes)
        self.parameters = list(dict.fromkeys([*FACTS, *self.takes]))

    @classmethod
    def of_class(cls, network_class: type) -> "GivenNetwork":
        """Return the builder that calls the constructor of ``network_class``."""
        return cls(network_class, network_class.__name__, named_parameters(network_class))

    def __call__(self, **arguments: Any) -> Any:
        return self.make(
            **{name: value for name, value in arguments.items() if name not in FACTS or name in self.takes}
        )


def named_parameters(network_class: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor that have a name; ``*args`` and ``**kwargs`` have none."""
    parameters = inspect.signature(network_class).parameters
    return {name: each for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}


_remembered: dict[str, GivenNetwork] = {}


def remember(identifier: str, network: GivenNetwork) -> None:
    """Let ``recall`` find ``network``; it replaces an earlier network with the same identifier."""
    # Removed first, because a dict keeps the place of an old key, and the oldest entry is forgotten below.
    _remembered.pop(identifier, None)
    _remembered[identifier] = network
    while len(_remembered) > _MOST_REMEMBERED:
        del _remembered[next(iter(_remembered))]


def recall(identifier: object) -> GivenNetwork | None:
    """Return the network that ``remember`` stored in this process, or None."""
    return _remembered.get(str(identifier))
