"""What every setting is checked by: typed, keyword-only constructors and the errors they raise.

A component (model, optimizer, loss, augmentation, data set) states its settings as annotated keyword-only arguments
of its constructor, decorated with ``checked``, or as the fields of a dataclass made by ``settings``. There is no second
schema: ``digitlab.config`` turns what these refuse into one line that names the config key.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError, validate_call
from pydantic.dataclasses import dataclass

# Strict: "3" is no number and True no count, as on the command line a wrong type is nearly always a slip.
# Neither nan nor inf is ever a setting.
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, extra="forbid")

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class DigitlabError(Exception):
    """A failure that one line explains: it is shown without a traceback. ``exit_code`` is what the process ends with."""

    exit_code = 1


class DataError(DigitlabError):
    """A data file that is missing, damaged or does not fit its partner."""


class RunError(DigitlabError):
    """A run that can't go on: a loss that is not finite, a folder that is no run folder, a device out of memory."""


class ConfigError(DigitlabError, ValueError):
    """A setting that is refused: its key, the value given, and what is allowed."""

    exit_code = 2

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={show(value)}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def under(self, prefix: str) -> "ConfigError":
        """The same error with the config key of the component in front: ``dropout`` becomes ``model.dropout``."""
        return ConfigError(f"{prefix}.{self.key}" if self.key else prefix, self.value, self.allowed)


def show(value: object) -> str:
    """A value as one types it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(show(item) for item in value) + "]"
    return str(value)


def checked(function: F) -> F:
    """Check the arguments of a constructor against its annotations, strictly, at every call."""
    return validate_call(config=_STRICT)(function)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose fields are checked against their annotations when it is made."""
    return dataclass(config=_STRICT, frozen=True, kw_only=True)(cls)


def nearest(name: str, names: Iterable[str]) -> str:
    """`` (did you mean `lenet`?)`` for ``lenett``, or nothing where no name is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" (did you mean `{close[0]}`?)" if close else ""


def refusal(error: ValidationError, *, names: Iterable[str] = ()) -> ConfigError:
    """The first of pydantic's complaints as a ``ConfigError``; ``names`` are the arguments that exist."""
    first = error.errors()[0]
    original = first.get("ctx", {}).get("error")
    if isinstance(original, ConfigError):
        # Raised by a check of a settings class that no single annotation can express.
        return original
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-")))
    names = list(names)
    if first["type"] in ("unexpected_keyword_argument", "unexpected_argument"):
        allowed = f"no such key{nearest(key, names)}; there are {', '.join(sorted(names))}"
    elif first["type"] in ("missing_keyword_only_argument", "missing_argument", "missing"):
        return ConfigError(key, None, "must be given")
    else:
        message = first["msg"][0].lower() + first["msg"][1:]
        allowed = message.replace("input should be", "must be")
        expected = first.get("ctx", {}).get("expected")
        if expected and isinstance(first["input"], str):
            allowed += nearest(first["input"], [part.strip(" '") for part in str(expected).replace(" or ", ",").split(",")])
    return ConfigError(key, first["input"], allowed)
