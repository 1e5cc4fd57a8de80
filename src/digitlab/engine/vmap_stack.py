"""Stacked convolutional networks: ``torch.func.vmap`` maps one forward pass over the members (functorch, 2021).

``StackedRunner`` uses it for all networks that ``DenseStack`` does not fit. On a CPU the members' forward passes run
one after another, with the operations of a solo run. Mapped convolutions are not faster there, and batch norm behind
them has gradients that are differences of nearly equal sums, so another order of summation changes the results.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from digitlab.engine.dropout_masks import mask_layers, replace_dropout


class VmapStack:
    """M networks like ``template``; ``parameters`` and ``buffers`` are stacked, (M, ...), in the template's order.

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
        # vmap cannot draw random numbers that equal those of the solo runs, so dropout masks are inputs.
        self._template = replace_dropout(template)
        self._names = [name for name, _ in template.named_parameters()]
        self._buffers = dict(zip((name for name, _ in template.named_buffers()), buffers, strict=True))
        self._masks = [f"{name}.mask" for name, layer in mask_layers(self._template)]
        device = self.parameters[0].device
        self._stream_sizes = list(stream_sizes)
        self._gradients: list[Tensor] = []
        self._one_by_one = device.type == "cpu"

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Compute logits (M, n, K) in training mode.

        ``images`` has (n, C, H, W) for each stream, ``masks`` (M, n, ...) for each dropout layer, or nothing without
        dropout.
        """
        self._template.train()
        # New leaves for each update: the parameters themselves stay without gradients and change in place.
        self._leaves = [parameter.detach().requires_grad_() for parameter in self.parameters]
        values = dict(zip(self._names, self._leaves, strict=True)) | self._buffers
        # Without dropout there are no masks, and the layers keep theirs, which is a one.
        values |= dict(zip(self._masks, masks, strict=False))
        if len(images) == 1:
            self._logits = self._call(values, images[0], shared=True)
        else:
            # ``expand`` copies nothing; the concatenation does, once per member. vmap needs one batch per member.
            expanded = [
                stream.expand(size, *stream.shape) for stream, size in zip(images, self._stream_sizes, strict=True)
            ]
            self._logits = self._call(values, torch.cat(expanded), shared=False)
        return self._logits.detach()

    def backward(self, gradient: Tensor) -> None:
        """Compute the gradients from ``gradient``, the derivative of the loss by the logits (M, n, K)."""
        self._gradients = list(torch.autograd.grad(self._logits, self._leaves, gradient))

    def gradients(self) -> list[Tensor]:
        """The gradients that ``backward`` computed, in the order of the parameters."""
        return self._gradients

    def evaluate(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Compute logits (M, n, K) of the same images (n, C, H, W) for all members, in evaluation mode.

        ``parameters`` are shaped like the stack's own: the averages, if the members have any.
        """
        self._template.eval()
        return self._call(dict(zip(self._names, parameters, strict=True)) | self._buffers, images, shared=True)

    def _call(self, values: Mapping[str, Tensor], images: Tensor, *, shared: bool) -> Tensor:
        """Call the template with each member's row of ``values``; all have the same images if ``shared``."""

        def forward(member_values: Mapping[str, Tensor], batch: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._template, dict(member_values), (batch,))
            return logits

        if self._one_by_one:
            # unbind once for all members: indexing would add an operation, and its gradient, for each member and
            # tensor.
            rows = {name: tensor.unbind() for name, tensor in values.items()}
            members = [{name: row[member] for name, row in rows.items()} for member in range(len(self.parameters[0]))]
            batches = [images] * len(members) if shared else images.unbind()
            return torch.stack([forward(member, batch) for member, batch in zip(members, batches, strict=True)])
        logits: Tensor = vmap(forward, in_dims=(0, None if shared else 0))(values, images)
        return logits
