"""Undoes updates that leave nan or infinite numbers, and builds the error that names the step of the first such update.

Solo runs, and populations of networks that are trained together, check their state once after each chunk (several
mini-batches in a row), which takes hardly any time. If anything is not finite, they undo the updates of the chunk and
repeat it with a check after each mini-batch. An update is a function of the state before it and of its position, so the
repetition reaches the same faulty update. One check for each chunk misses nothing, because a weight, moment or
statistic that is nan or infinite stays so whatever is added to it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from digitlab.core.errors import DIVERGED, RunError
from digitlab.data.chunks import Position

Results = TypeVar("Results")


class Rollback:
    """Saves copies of the tensors that ``state_tensors`` returns, restores them, and checks that they are finite.

    ``state_tensors`` is called each time, because an optimizer creates its state at its first step.
    """

    def __init__(self, state_tensors: Callable[[], Sequence[Tensor]]) -> None:
        self._state_tensors = state_tensors
        self._saved: list[Tensor] = []

    @torch.no_grad()
    def save(self) -> None:
        """Copy the tensors; the copies of the last call are overwritten."""
        tensors = list(self._state_tensors())
        if len(tensors) != len(self._saved):
            self._saved = [tensor.detach().clone() for tensor in tensors]
        else:
            torch._foreach_copy_(self._saved, tensors)

    @property
    def count(self) -> int:
        """The number of saved tensors."""
        return len(self._saved)

    @torch.no_grad()
    def rollback(self, member: int | None = None) -> None:
        """Set all tensors back to the saved values, in place; with ``member``, only the rows of that member.

        Rows exist in a population, whose tensors are stacked: (M, ...) for M members.
        """
        # The list may end with optimizer state that was created since ``save``. It has no copy and is skipped here;
        # ``TrainStep.rollback`` clears such state before it calls this method.
        for tensor, saved in zip(self._state_tensors(), self._saved, strict=False):
            if member is None:
                tensor.copy_(saved)
            elif tensor.ndim > 0:  # a scalar, the number of updates, belongs to all members
                tensor[member].copy_(saved[member])

    def finite(self) -> bool:
        """Return whether no tensor contains nan or infinity."""
        tensors = self._floats()
        # Some optimizers count their steps on the CPU. Tensors of two devices cannot be stacked, and these counts are
        # always finite, so they are left out.
        tensors = [tensor for tensor in tensors if tensor.device == tensors[0].device]
        # The sum of a tensor is fast and is never finite if an entry is not. A sum of finite entries rarely overflows,
        # so every entry is checked only if a sum is not finite.
        sums = torch.stack([tensor.sum() for tensor in tensors])
        return bool(sums.isfinite().all()) or all(bool(tensor.isfinite().all()) for tensor in tensors)

    def finite_members(self) -> Tensor:
        """Return whether each member's rows of the stacked tensors (M, ...) are finite: bool (M,)."""
        rows = [tensor.reshape(len(tensor), -1) for tensor in self._floats() if tensor.ndim > 0]
        finite = torch.stack([row.sum(1) for row in rows]).isfinite().all(0)
        return finite if finite.all() else torch.stack([row.isfinite().all(1) for row in rows]).all(0)

    def _floats(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self._state_tensors() if tensor.is_floating_point()]


class Restorable(Protocol):
    """The methods of ``Rollback`` and ``TrainStep`` that ``run_chunk_safely`` calls."""

    def save(self) -> None:
        """Copy the state."""

    def rollback(self) -> None:
        """Restore the copy."""


def run_chunk_safely(
    run: Callable[[bool], Results], *, finite: Callable[[Results], bool], state: Restorable, position: Position
) -> Results:
    """Make the updates of a chunk by ``run(False)`` and return its results, if they are ``finite``.

    Otherwise undo the updates and return the results of ``run(True)``, which makes them again with a check after each.
    At the first faulty one, it raises an error in a solo run; in a population, it ends the training of the members that
    the fault concerns. ``run`` changes ``state`` and advances ``position``.
    """
    start = replace(position)
    state.save()
    # The usual case: a single check for the chunk, because every check makes the host wait for the device.
    results = run(False)
    if finite(results):
        return results
    state.rollback()
    position.return_to(start)
    return run(True)


def divergence(loss: float, step: int, *, steps_per_epoch: int, learning_rate: float) -> RunError:
    """Return the error for mini-batch ``step``, counted from 0 over the whole run, whose update is not finite.

    Either its ``loss`` is not finite, or its gradient or the updated weights are not.
    """
    reason = (
        f"the loss is {loss}" if not math.isfinite(loss) else "the gradient, or the update it leads to, is not finite"
    )
    position = f"epoch {step // steps_per_epoch + 1}, step {step + 1} (learning rate {learning_rate:g})"
    return RunError(f"{reason} at {position}: {DIVERGED}")
