"""Dropout (Srivastava et al., 2014) by masks from outside, drawn as in a solo run: for populations, compiled steps."""

import copy
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

    def of_steps(self, first: int, steps: int, images: int) -> list[Tensor]:
        """The masks of ``steps`` mini-batches from the ``first``: for each layer (M, steps, n, …)."""
        drawn = [self.draw(step, images) for step in range(first, first + steps)]
        return [torch.stack(layer, 1) for layer in zip(*drawn, strict=True)]

    def _ones(self, images: int, shape: Size) -> Tensor:
        return torch.ones(images, *shape, device=self._device, dtype=self._dtype)


def member_masks(
    networks: Sequence[nn.Module],
    *,
    seeds: Sequence[int],
    image_shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
) -> Masks | None:
    """The masks of members with the ``networks`` and ``seeds``; None where none of them drops anything out."""
    rates = [
        next((layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)), 0.0) for network in networks
    ]
    if not any(rates):
        return None
    return Masks(_shapes(with_dropout(networks), image_shape), seeds=seeds, rates=rates, device=device, dtype=dtype)


def with_dropout(networks: Sequence[nn.Module]) -> nn.Module:
    """The network that all are made like: where any member drops out all have the layer, which may do nothing."""
    return max(networks, key=lambda network: sum(isinstance(layer, nn.Dropout) for layer in network.modules()))


def masked(template: nn.Module) -> nn.Module:
    """A copy of ``template`` whose dropout layers take their masks from outside."""
    network = copy.deepcopy(template)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Dropout):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, MaskedDropout())
    return network


def _shapes(template: nn.Module, image_shape: Sequence[int]) -> list[torch.Size]:
    """The shapes, of one image, of what the dropout layers of ``template`` are given, in the order of their calls."""
    network = masked(template).eval()
    shapes: list[torch.Size] = []
    for _, layer in masked_layers(network):
        layer.register_forward_pre_hook(lambda _, values: shapes.append(values[0].shape[1:]))
    parameter = next(network.parameters())
    with torch.no_grad():
        network(torch.zeros(2, *image_shape, dtype=parameter.dtype, device=parameter.device))
    return shapes


def masked_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of ``network`` that ``masked`` has put there, by name."""
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, MaskedDropout)]
