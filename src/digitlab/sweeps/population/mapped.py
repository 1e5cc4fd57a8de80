"""Any network stacked: ``torch.func`` maps one forward pass over the members (He and Zou, functorch, 2021)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from digitlab.sweeps.population.dropout import masked, masked_layers


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
        self._masks = [f"{name}.mask" for name, layer in masked_layers(self._template)]
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
