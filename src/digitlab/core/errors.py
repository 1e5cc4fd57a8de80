"""The errors that digitlab raises on purpose: one line explains each, and each has an exit code.

Every layer raises them; ``core.exit`` and ``train.py`` turn them into a message and an exit code.
"""

from collections.abc import Mapping


class DigitlabError(Exception):
    """A failure that one line explains, shown without a traceback; the process ends with ``exit_code``."""

    exit_code = 1


class DataError(DigitlabError):
    """A data file that is missing, damaged or does not fit its partner."""


class RunError(DigitlabError):
    """A run that can't go on: a loss that is not finite, a folder that is no run folder, a device out of memory."""


# How the error of a run ends whose numbers went wrong, which is an outcome of its settings and no mishap.
DIVERGED = "training stopped"


class ConfigError(DigitlabError, ValueError):
    """A setting that is refused: its key, the value given, and what is allowed."""

    exit_code = 2

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={show(value)}: {allowed}" if key else f"{show(value)}: {allowed}")
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
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{show(item)}" for key, item in value.items()) + "}"
    return " ".join(str(value).split())
