"""The first layer of stacked networks over several mini-batches at once, while gradient descent changes its weights.

With W the weights before B mini-batches and x_j the images of one of them, the weights that meet x_j are W plus the
updates made since, each a product of the layer's deltas and images; so W x_j for all j is one product, and what an
update i adds to the outputs of j follows from the images' inner products x_i x_j alone. The updates go into the weights
at the end, as one product as well. Three passes over the weights for each mini-batch become two for each B of them, and
the numbers are those of step by step, up to rounding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class LookAhead:
    """The layer with ``weight`` (M, U, D) over the mini-batches ``images``: for each stream B of them, (n, C, H, W).

    Weight decay is put off, too: what it has left of the weights since the first mini-batch is a factor a member.
    """

    def __init__(self, weight: Tensor, images: Sequence[Sequence[Tensor]], *, stream_sizes: Sequence[int]) -> None:
        self._weight, self._stream_sizes = weight, list(stream_sizes)
        self._images = [torch.cat(list(stream)).flatten(1) for stream in images]
        rows = [size * weight.shape[1] for size in stream_sizes]
        self._rows = weight.flatten(0, 1).split(rows)
        self._products = [own @ stream.T for own, stream in zip(self._rows, self._images, strict=True)]
        self._inner = [stream @ stream.T for stream in self._images]
        total = len(self._images[0])
        # The updates divided by the factor, so that all can be added before it is applied.
        self._updates = weight.new_empty(*weight.shape[:2], total)
        self._update_rows = self._updates.flatten(0, 1).split(rows)
        self._factor: Tensor | None = None
        self._done = 0
        self._next = weight.new_empty(sum(rows), 0)

    def products(self, images: int) -> Tensor:
        """Of the weights as they would be now with the next mini-batch, of n ``images``: a new tensor (M, U, n)."""
        done, span = self._done, slice(self._done, self._done + images)
        outputs = self._weight.new_empty(sum(map(len, self._rows)), images)
        parts = outputs.split([len(rows) for rows in self._rows])
        for out, products, updates, inner in zip(parts, self._products, self._update_rows, self._inner, strict=True):
            torch.addmm(products[:, span], updates[:, :done], inner[:done, span], out=out)
        stacked = outputs.view(*self._weight.shape[:2], images)
        return stacked if self._factor is None else stacked.mul_(self._factor)

    def descend(self, update: Tensor, kept: Tensor | None) -> None:
        """Put off to multiply the weights by ``kept``, (M, 1, 1), and to add ``update`` (M, U, n) times the images."""
        if kept is not None:
            self._factor = kept if self._factor is None else self._factor * kept
        place = self._updates[:, :, self._done : self._done + update.shape[2]]
        if self._factor is None:
            place.copy_(update)
        else:
            torch.div(update, self._factor, out=place)
        self._done += update.shape[2]

    def settle(self) -> None:
        """Bring the weights up to date."""
        done = self._done
        parts = zip(self._weight.split(self._stream_sizes), self._rows, self._update_rows, self._images, strict=True)
        factors = [None] * len(self._rows) if self._factor is None else self._factor.split(self._stream_sizes)
        for (weight, rows, updates, images), factor in zip(parts, factors, strict=True):
            rows.addmm_(updates[:, :done], images[:done])
            if factor is not None:
                weight.mul_(factor)
