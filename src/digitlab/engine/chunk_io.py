"""The inputs and the output buffers of one chunk of stacked networks; the runners and ``FusedUpdates`` fill them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from digitlab.data.chunks import Chunk
from digitlab.engine.device import on_device


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkIO:
    """B mini-batches of each stream; ``first`` is the number of the first one, counted from 0 over the whole run.

    ``rates`` and ``ema_weight`` are float64 (B, M): the learning rates, and the weight of the new parameters in their
    moving averages. The runner fills ``logits`` (M, images of the chunk, K) and ``losses`` (B, M), the means over each
    mini-batch.
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
        like: Tensor,
        logits: Tensor | None = None,
    ) -> "ChunkIO":
        """Copy ``rates`` and ``ema_weight``, (B, M) on the host, to the device, and allocate the outputs.

        ``like`` has the device and the dtype of the outputs. ``logits``, if given, is the buffer for them.
        """
        images, members = sum(chunks[0].sizes), rates.shape[1]
        return cls(
            chunks=chunks, first=first, rates=on_device(rates, like.device),
            ema_weight=on_device(ema_weight, like.device), losses=like.new_empty(rates.shape),
            # One large tensor: many small ones that stay alive would fragment the memory that the updates reuse.
            logits=like.new_empty(members, images, chunks[0].classes) if logits is None else logits,
        )  # fmt: skip

    def part(self, begin: int, end: int) -> "ChunkIO":
        """The mini-batches from ``begin`` to ``end``; the output buffers are views of this chunk's."""
        sizes = self.chunks[0].sizes
        images = slice(sum(sizes[:begin]), sum(sizes[:end]))
        return ChunkIO(
            chunks=[chunk.part(begin, end) for chunk in self.chunks], first=self.first + begin,
            rates=self.rates[begin:end], ema_weight=self.ema_weight[begin:end],
            logits=self.logits[:, images], losses=self.losses[begin:end],
        )  # fmt: skip


def leading_full_batches(chunk: Chunk) -> int:
    """How many mini-batches at the beginning of ``chunk`` have the full size: all but, maybe, the last of an epoch."""
    sizes = chunk.sizes
    return next((index for index, size in enumerate(sizes) if size != chunk.plan.batch_size), len(sizes))
