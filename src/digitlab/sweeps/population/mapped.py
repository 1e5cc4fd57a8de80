"""Any network stacked: ``torch.func`` maps the template's forward pass over the members (Horace and Zou, functorch)."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from digitlab.sweeps.population.dropout import MaskedDropout


class MappedStack:
    """M networks like ``template``; ``parameters`` and ``buffers`` are stacked, (M, …), in its own order.

    ``stream_sizes`` says how many members each stream has.
    """

    def __init__(
        self,
        template: nn.Module,
        parameters: Sequence[Tensor],
        *,
        buffers: Sequence[Tensor],
        stream_sizes: Sequence[int],
    ) -> None:
        self.parameters = [parameter.requires_grad_() for parameter in parameters]
        self._template = masked(template)
        self._names = [name for name, _ in template.named_parameters()]
        self._buffers = dict(zip((name for name, _ in template.named_buffers()), buffers, strict=True))
        self._masks = [f"{name}.mask" for name, layer in _dropouts(self._template)]
        device = self.parameters[0].device
        self._stream_of = torch.arange(len(stream_sizes), device=device).repeat_interleave(
            torch.tensor(stream_sizes, device=device)
        )
        self._gradients: list[Tensor] = []
        self._one_stream = len(stream_sizes) == 1

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Images, (n, C, H, W) a stream, and masks, (M, n, …) a dropout layer, to logits (M, n, K)."""
        self._template.train()
        values = dict(zip(self._names, self.parameters, strict=True)) | self._buffers
        values |= dict(zip(self._masks, masks, strict=False))
        if self._one_stream:
            return self._call(values, images[0], shared=True)
        return self._call(values, torch.stack(list(images)).index_select(0, self._stream_of), shared=False)

    def backward(self, loss: Tensor) -> None:
        """Ready ``gradients`` for ``loss``, the sum of the members'."""
        self._gradients = list(torch.autograd.grad(loss, self.parameters))

    def gradients(self) -> list[Tensor]:
        return self._gradients

    def evaluate(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Images (n, C, H, W), the same for all members, to logits (M, n, K) by other ``parameters`` of their shape."""
        self._template.eval()
        return self._call(dict(zip(self._names, parameters, strict=True)) | self._buffers, images, shared=True)

    def _call(self, values: Mapping[str, Tensor], images: Tensor, *, shared: bool) -> Tensor:
        def one(own: Mapping[str, Tensor], batch: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._template, dict(own), (batch,))
            return logits

        logits: Tensor = vmap(one, in_dims=(0, None if shared else 0))(values, images)
        return logits


def masked(template: nn.Module) -> nn.Module:
    """A copy of ``template`` whose dropout layers take their masks from outside."""
    network = copy.deepcopy(template)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Dropout):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, MaskedDropout())
    return network


def dropout_shapes(template: nn.Module, image_shape: Sequence[int]) -> list[torch.Size]:
    """The shapes, of one image, of what the dropout layers of ``template`` are given, in the order of their calls."""
    network = masked(template).eval()
    shapes: list[torch.Size] = []
    for _, layer in _dropouts(network):
        layer.register_forward_pre_hook(lambda _, values: shapes.append(values[0].shape[1:]))
    parameter = next(network.parameters())
    with torch.no_grad():
        network(torch.zeros(2, *image_shape, dtype=parameter.dtype, device=parameter.device))
    return shapes


def _dropouts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, MaskedDropout)]
