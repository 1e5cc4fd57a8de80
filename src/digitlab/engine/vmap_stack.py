"""Convolutional networks stacked: ``torch.func`` maps one forward pass over the members (He and Zou, functorch, 2021).

A processor gains nothing by mapping convolutions, and batch norm behind them has gradients that are differences of
nearly equal sums: another order of summation shows at once. There, members of such networks take turns, each by the
operations of a solo run.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from digitlab.engine.dropout_masks import masked, masked_layers


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
        self.parameters = list(parameters)
        self._template = masked(template)
        self._names = [name for name, _ in template.named_parameters()]
        self._buffers = dict(zip((name for name, _ in template.named_buffers()), buffers, strict=True))
        self._masks = [f"{name}.mask" for name, layer in masked_layers(self._template)]
        device = self.parameters[0].device
        self._stream_sizes = list(stream_sizes)
        self._gradients: list[Tensor] = []
        self._in_turn = device.type == "cpu"

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Images, (n, C, H, W) a stream, and masks, (M, n, …) a dropout layer, to logits (M, n, K)."""
        self._template.train()
        self._leaves = [parameter.detach().requires_grad_() for parameter in self.parameters]
        values = dict(zip(self._names, self._leaves, strict=True)) | self._buffers
        values |= dict(zip(self._masks, masks, strict=False))
        if len(images) == 1:
            self._logits = self._call(values, images[0], shared=True)
        else:
            own = [stream.expand(size, *stream.shape) for stream, size in zip(images, self._stream_sizes, strict=True)]
            self._logits = self._call(values, torch.cat(own), shared=False)
        return self._logits.detach()

    def backward(self, gradient: Tensor) -> None:
        """Ready ``gradients`` for a loss with this ``gradient`` by the logits, (M, n, K)."""
        self._gradients = list(torch.autograd.grad(self._logits, self._leaves, gradient))

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

        if self._in_turn:
            rows = {name: tensor.unbind() for name, tensor in values.items()}
            own = [{name: row[member] for name, row in rows.items()} for member in range(len(self.parameters[0]))]
            batches = [images] * len(own) if shared else images.unbind()
            return torch.stack([one(mine, batch) for mine, batch in zip(own, batches, strict=True)])
        logits: Tensor = vmap(one, in_dims=(0, None if shared else 0))(values, images)
        return logits
