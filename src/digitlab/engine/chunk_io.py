"""Mini-batches that a population learns from, and where it leaves what comes out: what a learner hands its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from digitlab.data.chunks import Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkIO:
    """B mini-batches, one chunk a stream; the ``first`` is counted from 0 over the whole run.

    ``rates`` and ``ema_weight`` are float64 (B, M): the learning rates, and the weight of the new parameters in their
    moving averages. The runner fills ``logits`` (M, images of the chunk, K) and ``losses``
    (B, M), means over mini-batches.
    """

    chunks: Sequence[Chunk]
    first: int
    rates: Tensor
    ema_weight: Tensor
    logits: Tensor
    losses: Tensor

    def part(self, begin: int, end: int) -> "ChunkIO":
        """Its mini-batches from ``begin`` to ``end``."""
        sizes = self.chunks[0].sizes
        images = slice(sum(sizes[:begin]), sum(sizes[:end]))
        return ChunkIO(
            chunks=[chunk.part(begin, end) for chunk in self.chunks], first=self.first + begin,
            rates=self.rates[begin:end], ema_weight=self.ema_weight[begin:end],
            logits=self.logits[:, images], losses=self.losses[begin:end],
        )  # fmt: skip
