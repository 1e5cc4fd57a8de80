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
        self._stream_rows = [size * weight.shape[1] for size in stream_sizes]
        rows = weight.flatten(0, 1).split(self._stream_rows)
        self._products = [own @ stream.T for own, stream in zip(rows, self._images, strict=True)]
        self._inner = [stream @ stream.T for stream in self._images]
        # Of each stream the updates divided by the factor, so that all can be added before it is applied.
        self._updates: list[list[Tensor]] = [[] for _ in images]
        self._factor: Tensor | None = None
        self._done = 0

    def products(self, images: int) -> Tensor:
        """Of the weights as they would be now with the next mini-batch, of n ``images``: (M, U, n)."""
        done, span = self._done, slice(self._done, self._done + images)
        outputs = [products[:, span] for products in self._products]
        if done:
            added = zip(self._updates, self._inner, strict=True)
            products = [torch.cat(updates, 1) @ inner[:done, span] for updates, inner in added]
            outputs = [own + more for own, more in zip(outputs, products, strict=True)]
        stacked = torch.cat(outputs).view(*self._weight.shape[:2], images)
        return stacked if self._factor is None else stacked * self._factor

    def descend(self, update: Tensor, kept: Tensor | None) -> None:
        """Put off to multiply the weights by ``kept``, (M, 1, 1), and to add ``update`` (M, U, n) times the images."""
        if kept is not None:
            self._factor = kept if self._factor is None else self._factor * kept
        if self._factor is not None:
            update = update / self._factor
        for updates, own in zip(self._updates, update.flatten(0, 1).split(self._stream_rows), strict=True):
            updates.append(own)
        self._done += update.shape[2]

    def settle(self) -> None:
        """Bring the weights up to date."""
        if not self._done:
            return
        parts = zip(self._weight.split(self._stream_sizes), self._updates, self._images, strict=True)
        factors = [None] * len(self._images) if self._factor is None else self._factor.split(self._stream_sizes)
        for (weight, updates, images), factor in zip(parts, factors, strict=True):
            weight.flatten(0, 1).addmm_(torch.cat(updates, 1), images[: self._done])
            if factor is not None:
                weight.mul_(factor)
