"""Dense networks stacked: all members of a stream share their images, so their first layers are one matrix product.

Autograd gives the gradients with respect to the layers' outputs before the activation; those of the weights are matrix
products, written into one place, or for plain gradient descent added to the weights at once, which saves two of five
passes over them. Activations lie as (M, U, n), so that neither way has to be copied.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from digitlab.models import MLP, Linear


class DenseStack:
    """M networks like ``template``, an ``MLP`` without batch norm or a ``Linear``.

    ``parameters`` are its parameters stacked, (M, …); ``stream_sizes`` says how many members each stream has.
    """

    def __init__(self, template: nn.Module, parameters: Sequence[Tensor], *, stream_sizes: Sequence[int]) -> None:
        self.parameters = list(parameters)
        self._weights, self._biases = self.parameters[0::2], self.parameters[1::2]
        self._activations = _activations(template)
        self._stream_sizes = list(stream_sizes)
        self._stream_rows = [size * self._weights[0].shape[1] for size in stream_sizes]
        self._gradients: list[Tensor] = []
        self._deltas: Sequence[Tensor] = ()

    @staticmethod
    def fits(network: nn.Module) -> bool:
        plain = not any(isinstance(layer, nn.BatchNorm1d) for layer in network.modules())
        return type(network) in (MLP, Linear) and plain

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Images, (n, C, H, W) a stream, and masks, (M, n, U) a hidden layer or none at all, to logits (M, n, K)."""
        self._images = [stream.flatten(1) for stream in images]
        weight, bias = self._weights[0].flatten(0, 1), self._biases[0]
        rows = zip(weight.split(self._stream_rows), self._images, strict=True)
        outputs = torch.cat([own @ stream.T for own, stream in rows])
        outputs = outputs.view(*bias.shape, -1).add_(bias.unsqueeze(2)).requires_grad_()
        self._inputs, self._outputs = [outputs], [outputs]  # of the first layer the inputs are the images
        for layer, activation in enumerate(self._activations):
            values = activation(outputs)
            if masks:
                values = values * masks[layer].mT
            outputs = torch.baddbmm(self._biases[layer + 1].unsqueeze(2), self._weights[layer + 1], values)
            self._inputs.append(values.detach())
            self._outputs.append(outputs)
        return outputs.mT

    def backward(self, loss: Tensor) -> None:
        """Ready ``gradients`` or ``descend`` for ``loss``, the sum of the members'; no parameter may change between."""
        self._deltas = torch.autograd.grad(loss, self._outputs)

    def gradients(self) -> list[Tensor]:
        """The gradients by the parameters; the next call overwrites them."""
        if not self._gradients:
            self._gradients = [torch.empty_like(parameter) for parameter in self.parameters]
        first = self._gradients[0].flatten(0, 1).split(self._stream_rows)
        for gradient, delta, stream in zip(first, self._delta_rows(self._deltas[0]), self._images, strict=True):
            torch.mm(delta, stream, out=gradient)
        for layer, delta in enumerate(self._deltas):
            torch.sum(delta, 2, out=self._gradients[2 * layer + 1])
            if layer > 0:
                torch.bmm(delta, self._inputs[layer].mT, out=self._gradients[2 * layer])
        return self._gradients

    @torch.no_grad()
    def descend(self, rates: Tensor, kept: Sequence[Tensor | None]) -> None:
        """Multiply the weights by ``kept``, (M, 1, 1) or None a parameter, and subtract gradients times ``rates``.

        ``rates`` is float (M, 1, 1).
        """
        deltas = [delta * -rates for delta in self._deltas]
        first = zip(self._weights[0].split(self._stream_sizes), self._delta_rows(deltas[0]), self._images, strict=True)
        factors = [None] * len(self._images) if kept[0] is None else kept[0].split(self._stream_sizes)
        # Stream by stream: what the first pass has read is still in the cache for the second.
        for (weight, delta, stream), factor in zip(first, factors, strict=True):
            _scale(weight, factor).flatten(0, 1).addmm_(delta, stream)
        for layer, delta in enumerate(deltas):
            self._biases[layer].add_(delta.sum(2))
            if layer > 0:
                _scale(self._weights[layer], kept[2 * layer]).baddbmm_(delta, self._inputs[layer].mT)

    def _delta_rows(self, delta: Tensor) -> Sequence[Tensor]:
        rows: Sequence[Tensor] = delta.flatten(0, 1).split(self._stream_rows)
        return rows

    def evaluate(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Images (n, C, H, W), the same for all members, to logits (M, n, K) by other ``parameters`` of their shape."""
        weights, biases = parameters[0::2], parameters[1::2]
        outputs = weights[0].flatten(0, 1) @ images.flatten(1).T
        outputs = outputs.view(*biases[0].shape, -1) + biases[0].unsqueeze(2)
        for layer, activation in enumerate(self._activations, start=1):
            outputs = torch.baddbmm(biases[layer].unsqueeze(2), weights[layer], activation(outputs))
        return outputs.mT


def _scale(weight: Tensor, factor: Tensor | None) -> Tensor:
    return weight if factor is None else weight.mul_(factor)


def _activations(template: nn.Module) -> list[nn.Module]:
    hidden = template.hidden if isinstance(template, MLP) else ()
    return [layer for layer in hidden if not isinstance(layer, nn.Linear | nn.Dropout)]
