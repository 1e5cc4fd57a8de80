"""Plain gradient descent of a dense population through a chunk: gradients go into the weights without being written."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from torch import Tensor

from digitlab.sweeps.population.dense import DenseStack
from digitlab.sweeps.population.update import Update

# Up to this many images the first layer looks ahead; more are as much as a matrix product needs to be efficient.
_AHEAD_IMAGES = 80
# Weight decay that leaves less than this of a weight in one step is not put off: a product of such could vanish.
_LEAST_KEPT = 0.5

# Of each stream the images, the targets and a weight.
Batch = Sequence[tuple[Tensor, Tensor, float]]


class Descent:
    """The updates of ``stack`` with learning rates float64 (B, M), as the rule of ``update`` would make them.

    ``settled`` has each update done before the next, for who looks at the weights between two of them.
    """

    def __init__(self, stack: DenseStack, update: Update, rates: Tensor, *, settled: bool) -> None:
        self._stack, self._update, self._settled = stack, update, settled
        self._rates = rates.to(stack.parameters[0].dtype).view(*rates.shape, 1, 1)
        self._kept = update.kept(rates)
        # Whether no later batch was looked at yet: who goes on from elsewhere would add up in another order.
        self.may_stop = True

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The ``batches`` as they are, told to the stack before they come."""
        source = iter(batches)
        while block := list(islice(source, 1)):
            block += islice(source, self._length(block[0]) - 1)
            if len(block) > 1:
                self._stack.look_ahead([[images for images, _, _ in stream] for stream in zip(*block, strict=True)])
            for number, batch in enumerate(block, start=1):
                self.may_stop = number == len(block)
                yield batch
            self._stack.settle()

    def _length(self, batch: Batch) -> int:
        decayed = [kept for kept in self._kept if kept is not None]
        if self._settled or any(bool((kept < _LEAST_KEPT).any()) for kept in decayed):
            return 1
        # A power of two, as the usual lengths of a chunk are: a run that is stopped between blocks goes on by the same.
        return 1 << max(_AHEAD_IMAGES // len(batch[0][0]), 1).bit_length() - 1

    def step(self, number: int) -> None:
        """Make the update of mini-batch ``number`` of the chunk, from 0, of which the stack has the gradients ready."""
        self._stack.descend(self._rates[number], [None if kept is None else kept[number] for kept in self._kept])

    def end(self, steps: int) -> None:
        """Do what was put off, after so many updates."""
        self._stack.settle()
        self._update.state.step.add_(steps)
