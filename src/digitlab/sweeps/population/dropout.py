"""Dropout of a population: each member's masks as its solo run would draw them (Srivastava et al., 2014)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from digitlab.data.seeding import stream_seed


class MaskedDropout(nn.Module):
    """Takes the place of ``nn.Dropout`` in a stacked network: multiplies by ``mask``, which the step puts in."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(()), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.mask if self.training else values


class Masks:
    """Masks for layers whose values have ``shapes`` (of one image), in the order in which they are met.

    ``seeds`` and ``rates`` are the members'. A solo run seeds torch's generator anew for each mini-batch, so its draws
    follow from (seed, step) alone; members with the same seed and rate have the same masks.
    """

    def __init__(
        self,
        shapes: Sequence[Size],
        *,
        seeds: Sequence[int],
        rates: Sequence[float],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._shapes, self._device, self._dtype = shapes, device, dtype
        pairs = list(zip(seeds, rates, strict=True))
        distinct = list(dict.fromkeys(pairs))
        self._draws = [(stream_seed("forward", seed, 0), rate) for seed, rate in distinct]
        self._place = torch.tensor([distinct.index(pair) for pair in pairs], device=device)

    def draw(self, step: int, images: int) -> list[Tensor]:
        """For each layer (M, n, …): 0 where a value is dropped, 1 / (1 - rate) where it stays."""
        drawn: list[list[Tensor]] = []
        for seed, rate in self._draws:
            torch.manual_seed(seed ^ step)
            drawn.append([F.dropout(self._ones(images, shape), rate) for shape in self._shapes])
        return [torch.stack(masks).index_select(0, self._place) for masks in zip(*drawn, strict=True)]

    def _ones(self, images: int, shape: Size) -> Tensor:
        return torch.ones(images, *shape, device=self._device, dtype=self._dtype)
