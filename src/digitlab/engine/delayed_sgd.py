"""Plain gradient descent of a dense population: gradients go into the weights without being written."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from torch import Tensor

from digitlab.engine.dense_stack import DenseStack

# Up to this many images the first layer looks ahead; more are as much as a matrix product needs to be efficient.
_AHEAD_IMAGES = 80
# Weight decay that leaves less than this of a weight in one step is not put off: a product of such could vanish.
_LEAST_KEPT = 0.5


class Batch(NamedTuple):
    """A mini-batch of each member: images (n, C, H, W) a stream, encoded targets (M, n, …), masks (M, n, …) a layer."""

    images: Sequence[Tensor]
    targets: Tensor
    masks: Sequence[Tensor]


def ahead(images: int) -> int:
    """How many mini-batches of so many ``images`` the first layer meets at once.

    A power of two, as the usual lengths of a chunk are: a run that is stopped between two blocks goes on by the same.
    """
    return 1 << max(_AHEAD_IMAGES // images, 1).bit_length() - 1


def can_wait(rates: Tensor, decays: Tensor) -> bool:
    """Whether weight decay by ``decays`` (M,) can be put off, at learning rates (B, M); both are on the host."""
    return bool((1 - rates * decays >= _LEAST_KEPT).all())


class Descent:
    """The updates of ``stack`` with learning rates float64 (B, M); decay leaves ``kept``, (B, M, 1, …) a parameter.

    ``block`` mini-batches are looked at together; the weights lag behind until its end.
    """

    def __init__(self, stack: DenseStack, rates: Tensor, kept: Sequence[Tensor | None], *, block: int) -> None:
        self._stack, self._kept, self._block = stack, kept, block
        self._rates = rates.to(stack.parameters[0].dtype).view(*rates.shape, 1, 1)

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The ``batches`` as they are, told to the stack before they come."""
        source = iter(batches)
        while block := list(islice(source, self._block)):
            if len(block) > 1:
                self._stack.look_ahead(list(zip(*(batch.images for batch in block), strict=True)))
            yield from block
            self._stack.settle()

    def step(self, number: int) -> None:
        """Make the update of mini-batch ``number``, from 0, of which the stack has the gradients ready."""
        self._stack.descend(self._rates[number], [None if kept is None else kept[number] for kept in self._kept])

    def end(self) -> None:
        """Do what was put off."""
        self._stack.settle()
