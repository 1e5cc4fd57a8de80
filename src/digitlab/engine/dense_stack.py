"""Dense networks stacked: all members of a stream share their images, so their first layers are one matrix product.

The gradients of the weights are matrix products too, written into one place, or for plain gradient descent added to the
weights at once, which saves two of five passes over them. Activations lie as (M, U, n), so that neither way has to be
copied; autograd is asked for their derivatives alone, and for those of batch norm.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digitlab.models import MLP, Linear


class DenseStack:
    """M networks like ``template``, an ``MLP`` or a ``Linear``.

    ``parameters`` and ``buffers`` are its own stacked, (M, …); ``stream_sizes`` says how many members each stream has.
    A layer has its weight, (M, U, D), and beside it a bias, or scale and shift of its batch norm, (M, U).
    """

    def __init__(
        self,
        template: nn.Module,
        parameters: Sequence[Tensor],
        *,
        buffers: Sequence[Tensor],
        stream_sizes: Sequence[int],
    ) -> None:
        self._template, self.parameters, self._buffers = template, list(parameters), list(buffers)
        self._places = _places(self.parameters)
        self._weights = [self.parameters[place] for place, _ in self._places]
        hidden = list(template.hidden) if isinstance(template, MLP) else []
        self._activations = [
            layer for layer in hidden if not isinstance(layer, nn.Linear | nn.BatchNorm1d | nn.Dropout)
        ]
        self._norm = next((layer for layer in hidden if isinstance(layer, nn.BatchNorm1d)), None)
        self._stream_sizes = list(stream_sizes)
        self._stream_rows = [size * self._weights[0].shape[1] for size in stream_sizes]
        self._gradients: list[Tensor] = []
        self._deltas: list[Tensor] = []
        self._beside: list[Sequence[Tensor]] = []

    @staticmethod
    def fits(network: nn.Module) -> bool:
        return type(network) in (MLP, Linear)

    def given(
        self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], *, stream_sizes: Sequence[int]
    ) -> "DenseStack":
        """Other members of its kind."""
        return DenseStack(self._template, parameters, buffers=buffers, stream_sizes=stream_sizes)

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Images, (n, C, H, W) a stream, and masks, (M, n, U) a hidden layer or none at all, to logits (M, n, K)."""
        self._images = [stream.flatten(1) for stream in images]
        outputs = self._products(len(self._images[0]))
        self._hidden: list[tuple[list[Tensor], Tensor]] = []  # of each hidden layer, what it is a function of, and it
        for layer, activation in enumerate(self._activations):
            leaves = [outputs.requires_grad_()]
            if self._norm is not None:
                leaves += [self.parameters[place].detach().requires_grad_() for place in self._places[layer][1]]
            values = activation(self._normed(layer, leaves, training=True))
            if masks:
                values = values * masks[layer].mT
            self._hidden.append((leaves, values))
            outputs = self._dense(layer + 1, values.detach(), self.parameters)
        return outputs.mT

    def _dense(self, layer: int, inputs: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Inputs (M, D, n) times weights, plus bias where there is one: (M, U, n)."""
        place, beside = self._places[layer]
        if len(beside) > 1:
            return torch.bmm(parameters[place], inputs)
        return torch.baddbmm(parameters[beside[0]].unsqueeze(2), parameters[place], inputs)

    def _normed(self, layer: int, leaves: Sequence[Tensor], *, training: bool) -> Tensor:
        """The first of ``leaves``, (M, U, n), scaled and shifted by the others, if there is a batch norm."""
        if self._norm is None:
            return leaves[0]
        outputs, scale, shift = leaves
        mean, variance, count = self._buffers[3 * layer : 3 * layer + 3]
        if training:
            count.add_(1)
        # Each unit of each member is a channel of one long sequence.
        normed = F.batch_norm(
            outputs.flatten(0, 1).unsqueeze(0), mean.view(-1), variance.view(-1), scale.flatten(), shift.flatten(),
            training=training, momentum=self._norm.momentum or 0.0, eps=self._norm.eps,
        )  # fmt: skip
        return normed.view_as(outputs)

    def _products(self, images: int) -> Tensor:
        """Those of the first layer's weights, with its bias where there is one: (M, U, n)."""
        members, units, _ = self._weights[0].shape
        rows = zip(self._weights[0].flatten(0, 1).split(self._stream_rows), self._images, strict=True)
        products = torch.cat([own @ stream.T for own, stream in rows]).view(members, units, images)
        beside = self._places[0][1]
        return products.add_(self.parameters[beside[0]].unsqueeze(2)) if len(beside) == 1 else products

    def backward(self, gradient: Tensor) -> None:
        """Ready ``gradients`` or ``descend`` for a loss with this ``gradient`` by the logits, (M, n, K).

        No parameter may change between.
        """
        self._deltas, self._beside = [gradient.mT], [[gradient.sum(1)]]
        for weight, (leaves, values) in zip(self._weights[:0:-1], reversed(self._hidden), strict=True):
            delta, *beside = torch.autograd.grad(values, leaves, torch.bmm(weight.mT, self._deltas[-1]))
            self._deltas.append(delta)
            self._beside.append(beside or [delta.sum(2)])
        self._deltas.reverse()
        self._beside.reverse()

    def gradients(self) -> list[Tensor]:
        """The gradients by the parameters; the next call overwrites them."""
        if not self._gradients:
            self._gradients = [torch.empty_like(parameter) for parameter in self.parameters]
        first = self._gradients[0].flatten(0, 1).split(self._stream_rows)
        for gradient, delta, stream in zip(first, self._delta_rows(self._deltas[0]), self._images, strict=True):
            torch.mm(delta, stream, out=gradient)
        for layer, ((place, beside), delta) in enumerate(zip(self._places, self._deltas, strict=True)):
            for other, gradient in zip(beside, self._beside[layer], strict=True):
                self._gradients[other] = gradient
            if layer > 0:
                torch.bmm(delta, self._inputs(layer).mT, out=self._gradients[place])
        return self._gradients

    def descend(self, rates: Tensor, kept: Sequence[Tensor | None]) -> None:
        """Multiply each parameter by its factor in ``kept``, then subtract its gradient times the learning rate.

        ``rates`` is float64 (M,). ``kept`` has (M, 1, ...) or None for each parameter.
        """
        rates = rates.to(self.parameters[0].dtype).view(-1, 1, 1)
        for layer, ((place, beside), gradients) in enumerate(zip(self._places, self._beside, strict=True)):
            delta = self._deltas[layer] * -rates
            if layer > 0:
                _scale(self._weights[layer], kept[place]).baddbmm_(delta, self._inputs(layer).mT)
            else:
                self._descend_first(delta, kept[place])
            for other, gradient in zip(beside, gradients, strict=True):
                self.parameters[other].addcmul_(gradient, rates.squeeze(2), value=-1)

    def _descend_first(self, delta: Tensor, kept: Tensor | None) -> None:
        first = zip(self._weights[0].split(self._stream_sizes), self._delta_rows(delta), self._images, strict=True)
        factors = [None] * len(self._images) if kept is None else kept.split(self._stream_sizes)
        # Stream by stream: what the first pass has read is still in the cache for the second.
        for (weight, own, stream), factor in zip(first, factors, strict=True):
            _scale(weight, factor).flatten(0, 1).addmm_(own, stream)

    def _inputs(self, layer: int) -> Tensor:
        return self._hidden[layer - 1][1].detach()

    def _delta_rows(self, delta: Tensor) -> Sequence[Tensor]:
        rows: Sequence[Tensor] = delta.flatten(0, 1).split(self._stream_rows)
        return rows

    def evaluate(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Images (n, C, H, W), the same for all members, to logits (M, n, K) by other ``parameters`` of their shape."""
        (place, beside), *_ = self._places
        members, units, _ = parameters[place].shape
        outputs = (parameters[place].flatten(0, 1) @ images.flatten(1).T).view(members, units, -1)
        if len(beside) == 1:
            outputs = outputs + parameters[beside[0]].unsqueeze(2)
        for layer, activation in enumerate(self._activations):
            leaves = [outputs, *(parameters[place] for place in self._places[layer][1])]
            outputs = self._dense(layer + 1, activation(self._normed(layer, leaves, training=False)), parameters)
        return outputs.mT


def _scale(weight: Tensor, factor: Tensor | None) -> Tensor:
    return weight if factor is None else weight.mul_(factor)


def _places(parameters: Sequence[Tensor]) -> list[tuple[int, list[int]]]:
    """Where each layer has its weight among the ``parameters``, and what stands beside it."""
    places: list[tuple[int, list[int]]] = []
    for place, parameter in enumerate(parameters):
        if parameter.ndim == 3:
            places.append((place, []))
        else:
            places[-1][1].append(place)
    return places
