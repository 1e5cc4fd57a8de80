"""Holds the inputs and the output buffers with which stacked networks train on one chunk of consecutive mini-batches.

Stacked networks are M networks of one architecture, the members, whose parameters are stacked to tensors (M, ...).
``ChunkRunner`` and ``StackedRunner`` create a ``ChunkIO`` for each chunk. They and ``FusedUpdates`` write the outputs.
Members with the same seed share one stream of mini-batches, so there is one ``Chunk`` for each stream. B mini-batches
in a chunk, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from digitlab.data.chunks import Chunk
from digitlab.engine.device import on_device


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkIO:
    """The inputs and outputs of B training steps.

    Inputs: ``chunks`` has B mini-batches of each stream. ``first`` is the number of the first mini-batch, counted from
    0 over the whole run. ``rates``, float64 (B, M), are the learning rates. ``ema_weight``, float64 (B, M), is the
    weight of the new parameters in their moving average.

    Outputs: ``logits`` (M, images of the chunk, K), and ``losses`` (B, M), the mean loss of each mini-batch.
    """

    chunks: Sequence[Chunk]
    first: int
    rates: Tensor
    ema_weight: Tensor
    logits: Tensor
    losses: Tensor

    @classmethod
    def empty(
        cls,
        chunks: Sequence[Chunk],
        *,
        first: int,
        rates: Tensor,
        ema_weight: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        logits: Tensor | None = None,
    ) -> "ChunkIO":
        """Copy ``rates`` and ``ema_weight``, (B, M), from the host to ``device``, and allocate outputs with ``dtype``.

        If ``logits`` is given, that tensor is used for the output.
        """
        if logits is None:
            # One large tensor. Many small ones, one for each mini-batch, would be kept until the end of the chunk, and
            # lie between the blocks of memory that the updates free and use again.
            images, members = sum(chunks[0].sizes), rates.shape[1]
            logits = torch.empty(members, images, chunks[0].classes, dtype=dtype, device=device)
        return cls(
            chunks=chunks, first=first, rates=on_device(rates, device), ema_weight=on_device(ema_weight, device),
            losses=torch.empty(rates.shape, dtype=dtype, device=device), logits=logits,
        )  # fmt: skip

    def part(self, begin: int, end: int) -> "ChunkIO":
        """Return the part for mini-batches ``begin`` to ``end`` (excluded); its tensors are views of these."""
        sizes = self.chunks[0].sizes
        images = slice(sum(sizes[:begin]), sum(sizes[:end]))
        return ChunkIO(
            chunks=[chunk.part(begin, end) for chunk in self.chunks], first=self.first + begin,
            rates=self.rates[begin:end], ema_weight=self.ema_weight[begin:end],
            logits=self.logits[:, images], losses=self.losses[begin:end],
        )  # fmt: skip


def leading_full_batches(chunk: Chunk) -> int:
    """Return how many mini-batches at the beginning of ``chunk`` have the full size.

    Only the last mini-batch of an epoch can be smaller.
    """
    sizes = chunk.sizes
    return next((index for index, size in enumerate(sizes) if size != chunk.plan.batch_size), len(sizes))
