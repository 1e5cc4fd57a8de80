"""Numbers that go wrong: the state that updates change, kept so that they can be undone, and the error that is raised.

What a device computes is looked at once a chunk, which costs next to nothing. Where a chunk ends with anything that is
not finite, it is undone and learnt once more, mini-batch by mini-batch, up to the one that went wrong: an update is a
function of the state before it and of its position, so the second time ends where the first did. That nothing escapes
rests on what such numbers do: a weight, moment or statistic that is nan or infinite stays so whatever is added to it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from digitlab.core.errors import DIVERGED, RunError


class Rollback:
    """Copies of the tensors that ``changed`` names, and whether these are finite.

    ``changed`` is asked anew each time, as an optimiser makes its state at its first step.
    """

    def __init__(self, changed: Callable[[], Sequence[Tensor]]) -> None:
        self._changed = changed
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the tensors as they are."""
        tensors = list(self._changed())
        if len(tensors) != len(self._kept):
            self._kept = [tensor.detach().clone() for tensor in tensors]
        else:
            torch._foreach_copy_(self._kept, tensors)

    @property
    def count(self) -> int:
        """How many tensors are kept."""
        return len(self._kept)

    @torch.no_grad()
    def restore(self, member: int | None = None) -> None:
        """Set the tensors back to what was kept: in place, all of them or the row of one ``member``."""
        for tensor, kept in zip(self._changed(), self._kept, strict=False):
            if member is None:
                tensor.copy_(kept)
            elif tensor.ndim > 0:
                tensor[member].copy_(kept[member])

    def finite(self) -> bool:
        """Whether no entry of any of the tensors is nan or infinite."""
        tensors = self._floats()
        # Some rules count their steps on another device than the one that waits to be asked.
        tensors = [tensor for tensor in tensors if tensor.device == tensors[0].device]
        # A sum is quick, and never finite where an entry is not; that it overflows is rare.
        sums = torch.stack([tensor.sum() for tensor in tensors])
        return bool(sums.isfinite().all()) or all(bool(tensor.isfinite().all()) for tensor in tensors)

    def finite_members(self) -> Tensor:
        """The same for each member of stacked tensors (M, …): bool (M,)."""
        rows = [tensor.reshape(len(tensor), -1) for tensor in self._floats() if tensor.ndim > 0]
        finite = torch.stack([row.sum(1) for row in rows]).isfinite().all(0)
        return finite if finite.all() else torch.stack([row.isfinite().all(1) for row in rows]).all(0)

    def _floats(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self._changed() if tensor.is_floating_point()]


def divergence(loss: float, step: int, *, steps_per_epoch: int, learning_rate: float) -> RunError:
    """What to raise for mini-batch ``step``, counted from 0 over the whole run, whose update can't be made.

    Its ``loss`` is not finite, or else its gradient, or what the update would make of the weights.
    """
    what = (
        f"the loss is {loss}" if not math.isfinite(loss) else "the gradient, or the update it leads to, is not finite"
    )
    place = f"epoch {step // steps_per_epoch + 1}, step {step + 1} (learning rate {learning_rate:g})"
    return RunError(f"{what} at {place}: {DIVERGED}")
