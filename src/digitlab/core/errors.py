"""The errors that digitlab raises on purpose. Each has a message of one line and an exit code.

Every package raises them. ``core.exit``, for ``train.py``, and ``digitlab.cli`` print the message and end the process
with the exit code.
"""

import traceback
from collections.abc import Mapping, Sequence


class DigitlabError(Exception):
    """A failure that one line explains to the user. The process ends with ``exit_code``, without a traceback."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows in place of a traceback: the line of the user's code, and the message.

        IPython calls this method. The frames of digitlab and of the libraries below explain nothing to the user.
        """
        frames = list(traceback.walk_tb(self.__traceback__))
        packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
        first_of_digitlab = next(
            (number for number, package in enumerate(packages) if package == "digitlab"), len(frames)
        )
        # The frame before is the user's line that called digitlab.
        user_frame = frames[max(first_of_digitlab - 1, 0) : first_of_digitlab]
        user_lines = traceback.StackSummary.extract(iter(user_frame)).format()
        notes = [str(note) for note in getattr(self, "__notes__", ())]
        return [*(line.rstrip("\n") for line in user_lines), f"{type(self).__name__}: {self}", *notes]


class DataError(DigitlabError):
    """A data file is missing or damaged, or it does not match another one (images and labels, for example)."""


class MissingDataError(DataError):
    """A file of a data set does not exist."""


class RunError(DigitlabError):
    """A run cannot continue. For example, its loss is not finite, or its folder cannot be written."""


# The error message of a run that diverged ends with these words. Sweeps and reports recognise such a run by them. They
# count its failure as a result of its settings, unlike a failure for another reason, such as a full disk.
DIVERGED = "training stopped"


class ConfigError(DigitlabError, ValueError):
    """A setting is invalid. The message gives its key, the value and what is allowed, as ``KEY=VALUE: allowed``.

    ``key`` is empty if the value belongs to no key, for example a word on the command line. The message then starts
    with the value.
    """

    exit_code = 2

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={show(value)}: {allowed}" if key else f"{show(value)}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def under(self, prefix: str) -> "ConfigError":
        """Return this error with ``prefix`` before its key: ``dropout`` becomes ``model.dropout``."""
        return ConfigError(f"{prefix}.{self.key}" if self.key else prefix, self.value, self.allowed)


def listed(names: Sequence[str], *, most: int = 5, separator: str = ", ") -> str:
    """Return the first ``most`` of ``names`` for a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def show(value: object) -> str:
    """Return ``value`` as a user would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "[" + ",".join(show(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{show(item)}" for key, item in value.items()) + "}"
    return " ".join(str(value).split())
