"""Dense networks stacked: all members of a stream share their images, so their first layers are one matrix product.

The gradients of the weights are matrix products too, written into one place, or for plain gradient descent added to the
weights at once, which saves two of five passes over them. Activations lie as (M, U, n), so that neither way has to be
copied; autograd is asked for their derivatives alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from digitlab.models import MLP, Linear
from digitlab.sweeps.population.ahead import LookAhead


class DenseStack:
    """M networks like ``template``, an ``MLP`` without batch norm or a ``Linear``.

    ``parameters`` are its parameters stacked, (M, …); ``stream_sizes`` says how many members each stream has.
    """

    def __init__(self, template: nn.Module, parameters: Sequence[Tensor], *, stream_sizes: Sequence[int]) -> None:
        self._template, self.parameters = template, list(parameters)
        self._weights, self._biases = self.parameters[0::2], self.parameters[1::2]
        self._activations = _activations(template)
        self._stream_sizes = list(stream_sizes)
        self._stream_rows = [size * self._weights[0].shape[1] for size in stream_sizes]
        self._gradients: list[Tensor] = []
        self._deltas: list[Tensor] = []
        self._ahead: LookAhead | None = None

    @staticmethod
    def fits(network: nn.Module) -> bool:
        plain = not any(isinstance(layer, nn.BatchNorm1d) for layer in network.modules())
        return type(network) in (MLP, Linear) and plain

    def given(
        self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], *, stream_sizes: Sequence[int]
    ) -> "DenseStack":
        """Other members of its kind, which have no buffers."""
        return DenseStack(self._template, parameters, stream_sizes=stream_sizes)

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Images, (n, C, H, W) a stream, and masks, (M, n, U) a hidden layer or none at all, to logits (M, n, K)."""
        self._images = [stream.flatten(1) for stream in images]
        outputs = self._products(len(self._images[0])).add_(self._biases[0].unsqueeze(2))
        self._hidden: list[tuple[Tensor, Tensor]] = []  # of each hidden layer, before and after its activation
        for layer, activation in enumerate(self._activations):
            values = activation(outputs.requires_grad_())
            if masks:
                values = values * masks[layer].mT
            self._hidden.append((outputs, values))
            outputs = torch.baddbmm(self._biases[layer + 1].unsqueeze(2), self._weights[layer + 1], values.detach())
        return outputs.mT

    def _products(self, images: int) -> Tensor:
        """Those of the first layer's weights, (M, U, n)."""
        members, units, _ = self._weights[0].shape
        if self._ahead is not None:
            return self._ahead.products(images)
        rows = zip(self._weights[0].flatten(0, 1).split(self._stream_rows), self._images, strict=True)
        return torch.cat([own @ stream.T for own, stream in rows]).view(members, units, images)

    def backward(self, gradient: Tensor) -> None:
        """Ready ``gradients`` or ``descend`` for a loss with this ``gradient`` by the logits, (M, n, K).

        No parameter may change between.
        """
        self._deltas = [gradient.mT]
        for weight, (outputs, values) in zip(self._weights[:0:-1], reversed(self._hidden), strict=True):
            self._deltas += torch.autograd.grad(values, outputs, torch.bmm(weight.mT, self._deltas[-1]))
        self._deltas.reverse()

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
                torch.bmm(delta, self._inputs(layer).mT, out=self._gradients[2 * layer])
        return self._gradients

    def descend(self, rates: Tensor, kept: Sequence[Tensor | None]) -> None:
        """Multiply the weights by ``kept``, (M, 1, 1) or None a parameter, and subtract gradients times ``rates``.

        ``rates`` is float (M, 1, 1).
        """
        deltas = [delta * -rates for delta in self._deltas]
        if self._ahead is not None:
            self._ahead.descend(deltas[0], kept[0])
        else:
            self._descend_first(deltas[0], kept[0])
        for layer, delta in enumerate(deltas):
            self._biases[layer].add_(delta.sum(2))
            if layer > 0:
                _scale(self._weights[layer], kept[2 * layer]).baddbmm_(delta, self._inputs(layer).mT)

    def _descend_first(self, delta: Tensor, kept: Tensor | None) -> None:
        first = zip(self._weights[0].split(self._stream_sizes), self._delta_rows(delta), self._images, strict=True)
        factors = [None] * len(self._images) if kept is None else kept.split(self._stream_sizes)
        # Stream by stream: what the first pass has read is still in the cache for the second.
        for (weight, own, stream), factor in zip(first, factors, strict=True):
            _scale(weight, factor).flatten(0, 1).addmm_(own, stream)

    def look_ahead(self, images: Sequence[Sequence[Tensor]]) -> None:
        """Take in the mini-batches that come next, each (n, C, H, W), a sequence for each stream.

        From here on ``descend`` puts off what it would do to the weights of the first layer, until ``settle``.
        """
        self._ahead = LookAhead(self._weights[0], images, stream_sizes=self._stream_sizes)

    def settle(self) -> None:
        """Do what was put off."""
        if self._ahead is not None:
            self._ahead.settle()
            self._ahead = None

    def _inputs(self, layer: int) -> Tensor:
        return self._hidden[layer - 1][1].detach()

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
