"""Mini-batches that a population learns from, and where it leaves what comes out: what a learner hands its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from digitlab.data.chunks import Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """B mini-batches, one chunk a stream; the ``first`` is counted from 0 over the whole run.

    ``rates`` and ``pull``, float64 (B, M), are the learning rates and how far averages go towards the weights. To be
    filled are ``logits`` (M, n of all, K) and ``losses`` (B, M), the means over mini-batches.
    """

    chunks: Sequence[Chunk]
    first: int
    rates: Tensor
    pull: Tensor
    logits: Tensor
    losses: Tensor

    def part(self, begin: int, end: int) -> "Lesson":
        """Its mini-batches from ``begin`` to ``end``."""
        sizes = self.chunks[0].sizes
        images = slice(sum(sizes[:begin]), sum(sizes[:end]))
        return Lesson(
            chunks=[chunk.part(begin, end) for chunk in self.chunks], first=self.first + begin,
            rates=self.rates[begin:end], pull=self.pull[begin:end],
            logits=self.logits[:, images], losses=self.losses[begin:end],
        )  # fmt: skip
