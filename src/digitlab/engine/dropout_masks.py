"""Dropout (Srivastava et al., 2014) with masks as inputs, equal to the masks of an eager solo run.

A solo run trains one network; a population trains M networks, the members, together, with tensors that are stacked to
(M, ...). Compiled code, CUDA graphs and stacked networks cannot draw random numbers as an eager run does, so their
masks are drawn before they are called. ``StackedNetworks`` and ``VmapStack`` use this.
"""

import copy
from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from digitlab.core.abilities import abilities
from digitlab.data.seeding import stream_seed


class MaskedDropout(nn.Module):
    """Replaces ``nn.Dropout``: in training it multiplies by ``mask``, which ``functional_call`` sets."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(()), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.mask if self.training else values


class DropoutMasks:
    """Draws the masks of M members with ``seeds`` and dropout ``rates``.

    ``shapes`` are those of the dropout layers' values for one image, in the order in which the layers are called. A
    solo run seeds its generator anew for each mini-batch, so its masks are a function of (seed, step); members with the
    same seed and rate have the same masks.
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
        # Masks are drawn once for each distinct pair, however many members have it. ``dict`` keeps the order of the
        # pairs, so the order of the draws is the same in every process.
        pairs = list(zip(seeds, rates, strict=True))
        distinct = list(dict.fromkeys(pairs))
        # The same seed as in ``TrainStep``: the mask of a member is that of its solo run, bit for bit.
        self._draws = [(stream_seed("forward", seed, 0), rate) for seed, rate in distinct]
        self._draw_of_member = torch.tensor([distinct.index(pair) for pair in pairs], device=device)

    def draw(self, step: int, images: int) -> list[Tensor]:
        """Return the masks of mini-batch ``step``, (M, n, ...) for each layer.

        A mask is 0 for dropped values and 1 / (1 - rate) for all others.
        """
        # Seed only the generator of this device: torch.manual_seed would seed those of all devices at each draw.
        generator = abilities(self._device).default_generator(self._device)
        masks_of_draws: list[list[Tensor]] = []
        for seed, rate in self._draws:
            generator.manual_seed(seed ^ step)
            # Dropout of ones returns the mask, drawn by the same kernel as in the solo run.
            masks_of_draws.append([F.dropout(self._ones(images, shape), rate) for shape in self._shapes])
        return [torch.stack(masks).index_select(0, self._draw_of_member) for masks in zip(*masks_of_draws, strict=True)]

    def draw_steps(self, first: int, steps: int, images: int) -> list[Tensor]:
        """Return the masks of ``steps`` mini-batches from number ``first`` on: (M, steps, n, ...) for each layer."""
        # Each mini-batch has its own seed, so the masks do not depend on how many are drawn at once.
        masks_of_steps = [self.draw(step, images) for step in range(first, first + steps)]
        return [torch.stack(layer_masks, 1) for layer_masks in zip(*masks_of_steps, strict=True)]

    def _ones(self, images: int, shape: Size) -> Tensor:
        return torch.ones(images, *shape, device=self._device, dtype=self._dtype)


def make_dropout_masks(
    networks: Sequence[nn.Module],
    *,
    seeds: Sequence[int],
    image_shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
) -> DropoutMasks | None:
    """Return the masks of members with these ``networks`` and ``seeds``; None if no member has dropout."""
    rates = [dropout_rate(network) for network in networks]
    if not any(rates):
        return None
    shapes = _shapes(network_with_most_dropout(networks), image_shape)
    return DropoutMasks(shapes, seeds=seeds, rates=rates, device=device, dtype=dtype)


def network_with_most_dropout(networks: Sequence[nn.Module]) -> nn.Module:
    """Return the network with the most dropout layers. It serves as the template whose code all members execute.

    A network with rate 0 may lack a dropout layer that others have. With this template, it gets the layer, and its mask
    is all ones.
    """
    return max(networks, key=lambda network: sum(map(is_dropout, network.modules())))


def dropout_rate(network: nn.Module) -> float:
    """Return the rate that all dropout layers of ``network`` have; 0 if there are none."""
    return next((layer.p for layer in network.modules() if is_dropout(layer)), 0.0)


def is_dropout(layer: nn.Module) -> TypeGuard[nn.Dropout]:
    """Return whether a mask can take the place of ``layer``. A subclass may do something else than ``nn.Dropout``."""
    return type(layer) is nn.Dropout


def replace_dropout(template: nn.Module, replacement: type[nn.Module] = MaskedDropout) -> nn.Module:
    """Return a copy of ``template`` with a ``replacement`` in place of each ``nn.Dropout``."""
    network = copy.deepcopy(template)
    for name, layer in list(network.named_modules()):
        if is_dropout(layer):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, replacement())
    return network


def _shapes(template: nn.Module, image_shape: Sequence[int]) -> list[torch.Size]:
    """Return the shapes of the dropout layers' inputs for one image, in the order in which the layers are called."""
    # In evaluation mode, so that this pass does not change the statistics of batch norm.
    network = replace_dropout(template).eval()
    shapes: list[torch.Size] = []
    for _, layer in mask_layers(network):
        layer.register_forward_pre_hook(lambda _, values: shapes.append(values[0].shape[1:]))
    parameter = next(network.parameters())
    with torch.no_grad():
        network(torch.zeros(2, *image_shape, dtype=parameter.dtype, device=parameter.device))
    return shapes


def mask_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that ``replace_dropout`` has put into ``network``, with their names."""
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, MaskedDropout)]
