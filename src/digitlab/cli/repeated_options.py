"""The class of all ``digitlab`` commands. It refuses an option that is given twice but has only one value.

Typer would use the last value and ignore the first one without a word. ``cli.commands`` sets this class.
"""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from digitlab.core.errors import ConfigError


class StrictCommand(TyperCommand):
    """A command that raises ``ConfigError`` if one of its options is given twice and has only one value."""

    # Some versions of Typer have the class of ``ctx`` from Click and others have a copy of it.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        refuse_repeated(self.params, args)
        return super().parse_args(ctx, args)


def refuse_repeated(parameters: Sequence[Any], arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` if ``arguments`` contain one of ``parameters`` twice, unless it may have several values."""
    options = {name: parameter for parameter in parameters for name in parameter.opts if name.startswith("-")}
    first_values: dict[str, str] = {}
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":  # all that follows are names of files and folders
            return
        name, equals, value = argument.partition("=")
        option = options.get(name)
        if option is None or option.is_flag or option.multiple:
            continue
        value = value if equals else next(remaining, "")
        if name in first_values:
            values = f"{first_values[name]} and {value}"
            raise ConfigError("", f"{name} {values}", "the option has one value: give it once")
        first_values[name] = value
