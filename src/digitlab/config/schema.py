"""Validation of settings: typed constructors are the schema, and this module turns their errors into one line.

A component (model, optimizer, loss, augmentation, data set) declares its settings as annotated keyword-only arguments
of its constructor, decorated with ``checked``, or as fields of a dataclass decorated with ``settings``. There is no
other schema. ``digitlab.config.compose`` builds the components and reports their errors with the config key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, validate_call
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from digitlab.config.suggestions import nearest_value, unknown
from digitlab.core.errors import ConfigError, show

# strict: "3" is not a number and True is not a count, because a wrong type is nearly always a mistake of the user.
# allow_inf_nan: no setting can be nan or inf.
# arbitrary_types_allowed: a setting can be an object of any class, such as a data source.
# extra: a constructor refuses arguments that it does not have.
# defer_build: pydantic builds a validator at its first use, because a run uses only a few of them.
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, extra="forbid", defer_build=True)

# A fraction can be 1. A rate, such as that of dropout, is below 1.
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
# The types of pydantic's own errors. Other errors come from digitlab's checks, whose messages are used as they are.
_PYDANTIC_ERRORS = frozenset(get_args(ErrorType))

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def checked(function: F) -> F:
    """Decorate a constructor so that every call validates the arguments against the annotations, strictly."""
    return validate_call(config=_STRICT)(function)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Turn a class into a frozen, keyword-only dataclass whose constructor validates its fields, strictly."""
    return cast(type[T], dataclass(config=_STRICT, frozen=True, kw_only=True)(cls))


def settings_from(cls: type[T], values: Mapping[str, Any], key: str) -> T:
    """Return ``cls(**values)``, a settings class. ``key`` is the dotted path of its node, or empty for the top level.

    Raises ``ConfigError`` with the whole path of the setting if a value is not allowed.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        config_error = refusal(error, of=cls, given=values)
        raise (config_error.under(key) if key else config_error) from error


def refusal(error: ValidationError, *, of: Any, given: Mapping[str, Any]) -> ConfigError:
    """Return a ``ConfigError`` that says what is allowed, for the first of pydantic's errors about ``of(**given)``.

    ``of`` is the class that was called, and ``given`` are its arguments.
    """
    first = error.errors()[0]
    original = first.get("ctx", {}).get("error")
    if isinstance(original, ConfigError):
        # Raised by a settings class itself, for a rule that annotations cannot express.
        return original
    key = str(first["loc"][0])  # the name of the argument
    hints = get_type_hints(of if is_dataclass(of) else of.__init__, include_extras=True)
    if key not in given:
        return ConfigError(key, None, "must be given")
    if key not in hints:
        return unknown(key, given[key], hints)
    return _error_for_value(key, given[key], hints[key], first)


def check_value(key: str, value: object, annotation: Any) -> None:
    """Raise ``ConfigError`` if ``value`` is not what the annotation of the setting ``key`` allows."""
    try:
        TypeAdapter(annotation, config=_STRICT).validate_python(value)
    except ValidationError as error:
        raise _error_for_value(key, value, annotation, error.errors()[0]) from error


def _error_for_value(key: str, value: object, annotation: Any, first: ErrorDetails) -> ConfigError:
    """Return the ``ConfigError`` for pydantic's ``first`` error about one setting."""
    if first["type"] not in _PYDANTIC_ERRORS:
        return ConfigError(key, value, first["msg"])
    names = [show(name) for name in _literals(annotation)]
    hint = ", and finite" if first["type"] == "finite_number" else nearest_value(show(value), names)
    if first["type"] in ("int_type", "float_type") and isinstance(value, str):
        hint = _number_hint(value, annotation) or hint
    if first["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        hint = f": write {value:.0f}"
    if first["type"] == "list_type" and _is_valid([value], annotation):
        hint = f": write [{show(value)}]"
    return ConfigError(key, value, f"must be {describe(annotation)}{hint}")


def _number_hint(text: str, annotation: Any) -> str | None:
    """Return how the number in ``text`` is written if ``annotation`` allows it; None if ``text`` is not a number."""
    if text.endswith("%") and _is_number(text[:-1]):
        share = float(text[:-1]) / 100
        return f": write {share:g}" if _is_valid(share, annotation) else None
    if text.isdecimal() and text != "0" and text.startswith("0"):
        return f": write {int(text)}" if _is_valid(int(text), annotation) else None
    return ", and this is text: a number is written without quotes" if _is_number(text) else None


def _is_valid(value: object, annotation: Any) -> bool:
    try:
        TypeAdapter(annotation, config=_STRICT).validate_python(value)
    except ValidationError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def describe(annotation: Any) -> str:
    """Return in words what an annotation allows: ``a number in [0, 1)`` for ``Rate``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        # pydantic keeps the limits of a ``Field`` as objects with one attribute each, such as Ge(ge=0).
        constraints = [each for field in arguments[1:] for each in getattr(field, "metadata", ())]
        limits = {name: getattr(each, name) for each in constraints for name in each.__slots__}
        return _describe_limits(arguments[0], limits)
    if origin is Literal:
        names = list(dict.fromkeys(show(name) for name in arguments))
        return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if origin in (Union, UnionType):
        return ", or ".join(describe(each) for each in arguments)
    if origin is not None and issubclass(origin, Sequence):
        return _describe_limits(annotation, {})
    if origin is dict:
        return f"{{name: {describe(arguments[1])}}}"
    return _TYPES.get(annotation) or f"a {getattr(annotation, '__name__', annotation)}"


def _describe_limits(kind: Any, limits: Mapping[str, Any]) -> str:
    """Return in words what the type ``kind``, a list or a number, allows with pydantic's ``limits`` (ge, lt, …)."""
    if get_origin(kind) is not None:
        least, most = limits.get("min_length", 0), limits.get("max_length")
        count = f" of {most}" if least == most else f" of {least} or more" if least else ""
        return f"a list{count}, each {describe(get_args(kind)[0])}"
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        return f"{_TYPES[kind]} in {'[' if 'ge' in limits else '('}{low}, {high}{']' if 'le' in limits else ')'}"
    if low is not None:
        return f"{_TYPES[kind]} of {low} or more" if "ge" in limits else f"{_TYPES[kind]} above {low}"
    return f"{_TYPES[kind]} of {high} or less" if "le" in limits else f"{_TYPES[kind]} below {high}"


def _literals(annotation: Any) -> list[Any]:
    """Return all values of the ``Literal``s in an annotation, also inside unions and lists."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return list(arguments)
    return [literal for each in arguments for literal in _literals(each)]
