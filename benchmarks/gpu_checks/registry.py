"""What a check is: a named function that measures something and raises an error if the result is wrong.

The modules of this folder register their checks here; ``gpu_check.py`` runs them and writes the results.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

# Numbers and texts that go to gpu.json beside the verdict. ``targets`` may hold values by the names of ``TARGETS``.
Measured = dict[str, Any]


class NotRun(Exception):
    """A check that makes no sense here, for example one that needs CUDA in a dry run on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where and how checks run.

    ``quick`` shortens everything to a smoke test. ``folder`` takes the runs. ``reference`` is the script of the
    airbench comparison; None leaves it out.
    """

    device: torch.device
    quick: bool
    folder: Path
    reference: Path | None = None

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def accelerator(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.cuda else "cpu"

    @property
    def binding(self) -> bool:
        """Whether speed and accuracy are compared with the targets."""
        return self.cuda and not self.quick

    def require_cuda(self) -> None:
        """Raise ``NotRun`` on any other device."""
        if not self.cuda:
            raise NotRun("needs a CUDA device")

    def require_time(self) -> None:
        """Raise ``NotRun`` in a quick check, for a check that takes long and shows nothing new there."""
        if self.quick:
            raise NotRun("left out of a quick check")


@dataclass(slots=True)
class Group:
    """The checks of one module, by name, in the order in which they run."""

    checks: dict[str, Callable[[Context], Measured | None]] = field(default_factory=dict)

    def add(self, name: str, function: Callable[[Context], Measured | None]) -> None:
        if name in self.checks:
            raise ValueError(f"two checks are called {name}")
        self.checks[name] = function

    def check(
        self, name: str
    ) -> Callable[[Callable[[Context], Measured | None]], Callable[[Context], Measured | None]]:
        """Register the decorated function as the check ``name``."""

        def register(function: Callable[[Context], Measured | None]) -> Callable[[Context], Measured | None]:
            self.add(name, function)
            return function

        return register


def require(condition: bool, message: str) -> None:
    """Raise ``AssertionError`` unless ``condition`` holds; unlike ``assert``, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def within(measured: float, limit: float, what: str) -> None:
    """Require ``measured`` ≤ ``limit``."""
    require(measured <= limit, f"{what}: {measured:.3g} is above {limit:.3g}")


@contextmanager
def replaced(*targets: tuple[Any, str, Any]) -> Iterator[None]:
    """Within, each (object, attribute, value) of ``targets`` is set; afterwards the old values are back."""
    before = [(target, name, getattr(target, name)) for target, name, _ in targets]
    try:
        for target, name, value in targets:
            setattr(target, name, value)
        yield
    finally:
        for target, name, value in reversed(before):
            setattr(target, name, value)


def describe(measured: Mapping[str, Any]) -> str:
    """The measured values in one line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in measured.items()
    )
