"""The conditions of ``digitlab compare --where KEY=VALUE``, which choose the runs that are compared.

Values are written as in the command of a training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from digitlab.config.values import Value
from digitlab.core.errors import ConfigError, show


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as the user typed it: a key and a value, or several values with commas, of which one must hold."""

    key: str
    text: str

    @classmethod
    def parse(cls, condition: str) -> "Condition":
        """Read ``KEY=VALUE``. Raises ``ConfigError`` if ``condition`` has another form."""
        key, equals, text = condition.partition("=")
        if not (key and equals) or key[-1] in "!<>" or text.startswith("="):
            raise ConfigError("--where", condition, "must be KEY=VALUE, for example optimizer.lr=0.1")
        return cls(key.strip(), text.strip())

    def holds(self, value: Value) -> bool:
        """Return whether ``value``, a setting of a run, is one of the values that the user typed."""
        return show(value) == self.text or any(_equal(_read(show(value)), each) for each in self._values())

    def _values(self) -> list[Any]:
        """Return the values that the user typed, as Hydra reads them; the text itself if Hydra can't read it."""
        try:
            override = OverridesParser.create().parse_override(f"key={self.text}")
            return list(override.sweep_iterator()) if override.is_discrete_sweep() else [override.value()]
        except HydraException:
            return [self.text]


def _read(text: str) -> Any:
    """Return the value that the text of a setting stands for; lists become lists again."""
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text


def _equal(value: Any, wanted: Any) -> bool:
    """Return whether two values mean the same. Numbers are compared as numbers, also inside lists: 1e-1 means 0.1."""
    if value is None or isinstance(value, bool):
        # Python users write None, True and False, which Hydra reads as the texts "None", "True" and "False".
        return show(wanted).lower() in (show(value), str(value).lower())
    if isinstance(value, int | float):
        return isinstance(wanted, int | float) and not isinstance(wanted, bool) and math.isclose(value, wanted)
    if isinstance(value, Mapping) and isinstance(wanted, Mapping):
        return value.keys() == wanted.keys() and all(_equal(value[key], wanted[key]) for key in value)
    if _is_list(value) and _is_list(wanted):
        return len(value) == len(wanted) and all(map(_equal, value, wanted))
    return show(value) == show(wanted)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
