"""SIGINT and SIGTERM: the step under way is finished, the run is saved, and the process ends with 130 or 143."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch import Trainer

from digitlab.core.errors import DigitlabError


class Interrupted(DigitlabError):
    """A run that a signal stopped and that was saved first; ``where`` it stands, and how to go on."""

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{where}")
        self.number, self.exit_code = number, 128 + number


class StopSignal:
    """Within ``with``, remembers the first SIGINT or SIGTERM in ``received``; a second one acts as it always does."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals over (again: Lightning installs handlers of its own when a fit begins)."""
        for number in self._previous:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)

    def obey(self, trainer: Trainer, *, save: Callable[[], None] | None = None) -> None:
        """Raise ``Interrupted``, after ``save()``, where any process of ``trainer`` received a signal.

        All processes have to come here, and wait here for each other.
        """
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            if save is not None:
                save()
            # A process that stops for another's sake received nothing itself.
            raise Interrupted(self.received or signal.SIGTERM)
