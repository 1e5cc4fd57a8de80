"""Stacked dense networks: all members of a stream share their images, so their first layers are one matrix product.

Stacked networks are the M members of a population, which are trained together; their tensors are (M, ...). A stream is
the mini-batches that members with the same seed share. ``StackedNetworks`` uses this class for ``MLP`` and ``Linear``.
Backpropagation through the weights is written out as matrix products. They write into buffers that are used again.
Plain gradient descent adds the products straight to the weights, which saves writing and reading the gradients.
Autograd computes only the derivatives of activations, batch norm and dropout. Activations are stored as (M, U, n), the
layout that forward and backward need without a copy.

Shapes: M members, n images, U units of a layer, D units of the layer before it, C channels, H rows, W columns, K
classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digitlab.models import MLP, Linear

# With fewer images than this in a mini-batch, the first layer multiplies the transposed matrices on a CPU, as
# ``_first_products`` explains.
_FEW_IMAGES = 16


class DenseStack:
    """M networks with the architecture of ``template``, an ``MLP`` or a ``Linear``.

    ``parameters`` and ``buffers`` are those of the members, stacked to (M, ...); ``stream_sizes`` says how many members
    each stream has. In the list of parameters, each layer has a weight (M, U, D), followed by its *vectors* (M, U): the
    bias, or scale and shift of its batch norm. Call ``forward``, ``backward``, and then ``gradients`` or ``descend``.
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
        self._layers = _layer_indices(self.parameters)
        self._weights = [self.parameters[weight] for weight, _ in self._layers]
        hidden = list(template.hidden) if isinstance(template, MLP) else []
        self._activations = [
            layer for layer in hidden if not isinstance(layer, nn.Linear | nn.BatchNorm1d | nn.Dropout)
        ]
        # All hidden layers have the same settings of batch norm, so the first one stands for all.
        self._norm = next((layer for layer in hidden if isinstance(layer, nn.BatchNorm1d)), None)
        self._stream_sizes = list(stream_sizes)
        # In the first layer the units of all members of a stream are the rows of one matrix.
        self._stream_rows = [size * self._weights[0].shape[1] for size in stream_sizes]
        self._gradients: list[Tensor] = []
        self._deltas: list[Tensor] = []
        self._vector_gradients: list[Sequence[Tensor]] = []

    @staticmethod
    def fits(network: nn.Module) -> bool:
        """Return whether networks like this one can be stacked by this class."""
        return type(network) in (MLP, Linear)

    def with_tensors(
        self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], *, stream_sizes: Sequence[int]
    ) -> "DenseStack":
        """Return a stack of networks of the same architecture with other tensors."""
        return DenseStack(self._template, parameters, buffers=buffers, stream_sizes=stream_sizes)

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Compute logits (M, n, K) in training mode.

        ``images`` has (n, C, H, W) for each stream, ``masks`` (M, n, U) for each hidden layer, or nothing without
        dropout.
        """
        self._images = [stream.flatten(1) for stream in images]
        # All members of a stream multiply the same images, so their first layers are one large product instead of M
        # small ones.
        outputs = self._first_products(len(self._images[0]))
        # For each hidden layer: the tensors with respect to which autograd differentiates its output, and the output.
        self._hidden: list[tuple[list[Tensor], Tensor]] = []
        for layer, activation in enumerate(self._activations):
            # ``outputs``, the results of the matrix product, are a leaf of autograd: a graph starts here, with batch
            # norm, activation and dropout only.
            leaves = [outputs.requires_grad_()]
            if self._norm is not None:
                leaves += [self.parameters[index].detach().requires_grad_() for index in self._layers[layer][1]]
            values = activation(self._normed(layer, leaves, training=True))
            if masks:
                values = values * masks[layer].mT
            self._hidden.append((leaves, values))
            # ``detach`` ends the graph of this layer: ``backward`` computes the products between the graphs.
            outputs = self._dense(layer + 1, values.detach(), self.parameters)
        return outputs.mT

    def _dense(self, layer: int, inputs: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Multiply inputs (M, D, n) by the layer's weights and add its bias, if it has one: (M, U, n)."""
        weight, vectors = self._layers[layer]
        # Two vectors belong to a batch norm; a layer before a batch norm has no bias.
        if len(vectors) > 1:
            return torch.bmm(parameters[weight], inputs)
        return torch.baddbmm(parameters[vectors[0]].unsqueeze(2), parameters[weight], inputs)

    def _normed(self, layer: int, leaves: Sequence[Tensor], *, training: bool) -> Tensor:
        """Apply batch norm, if the networks have it, to ``leaves[0]``, (M, U, n); the others are scale and shift."""
        if self._norm is None:
            return leaves[0]
        outputs, scale, shift = leaves
        mean, variance, count = self._buffers[3 * layer : 3 * layer + 3]
        if training:
            count.add_(1)
        # Each unit of each member is a channel, so that one call normalises all members.
        normed = F.batch_norm(
            outputs.flatten(0, 1).unsqueeze(0), mean.view(-1), variance.view(-1), scale.flatten(), shift.flatten(),
            training=training, momentum=self._norm.momentum or 0.0, eps=self._norm.eps,
        )  # fmt: skip
        return normed.view_as(outputs)

    def _first_products(self, images: int) -> Tensor:
        """Return the outputs of the first layer, with its bias if it has one: (M, U, n)."""
        members, units, _ = self._weights[0].shape
        pairs = zip(self._weights[0].flatten(0, 1).split(self._stream_rows), self._images, strict=True)
        # A product with only a few columns is slow in a CPU's BLAS library. That of 540 rows of weights and 10 images
        # took 2.5 times as long as the transposed product, although the result of the latter must be transposed and
        # copied.
        if images < _FEW_IMAGES and self._weights[0].device.type == "cpu":
            products = torch.cat([(stream @ rows.T).T.contiguous() for rows, stream in pairs])
        else:
            products = torch.cat([rows @ stream.T for rows, stream in pairs])
        products = products.view(members, units, images)
        vectors = self._layers[0][1]
        return products.add_(self.parameters[vectors[0]].unsqueeze(2)) if len(vectors) == 1 else products

    def backward(self, gradient: Tensor) -> None:
        """Backpropagate ``gradient``, the derivative of the loss by the logits (M, n, K), to the outputs of all layers.

        Call ``gradients`` or ``descend`` next; no parameter may change in between.
        """
        # A delta is the derivative of the loss by a layer's outputs before batch norm and activation, (M, U, n). The
        # lists begin with the last layer and are reversed at the end.
        self._deltas, self._vector_gradients = [gradient.mT], [[gradient.sum(1)]]
        # ``[:0:-1]``: from the last weight back to the second. Each is paired with the hidden layer before it.
        for weight, (leaves, values) in zip(self._weights[:0:-1], reversed(self._hidden), strict=True):
            # The product propagates the delta of the next layer back through that layer's weights, and autograd through
            # this layer's activation and batch norm.
            delta, *norm_gradients = torch.autograd.grad(values, leaves, torch.bmm(weight.mT, self._deltas[-1]))
            self._deltas.append(delta)
            # The gradient of a bias is the sum over the images.
            self._vector_gradients.append(norm_gradients or [delta.sum(2)])
        self._deltas.reverse()
        self._vector_gradients.reverse()

    def gradients(self) -> list[Tensor]:
        """Return the gradients in the order of the parameters; the next call overwrites them."""
        if not self._gradients:
            self._gradients = [torch.empty_like(parameter) for parameter in self.parameters]
        # ``out=`` writes into the buffers of the first call, because the system would have to map new memory each time.
        first_layer = self._gradients[0].flatten(0, 1).split(self._stream_rows)
        for gradient, delta, stream in zip(first_layer, self._delta_rows(self._deltas[0]), self._images, strict=True):
            torch.mm(delta, stream, out=gradient)
        for layer, ((weight, vectors), delta) in enumerate(zip(self._layers, self._deltas, strict=True)):
            for index, gradient in zip(vectors, self._vector_gradients[layer], strict=True):
                self._gradients[index] = gradient
            if layer > 0:
                torch.bmm(delta, self._inputs(layer).mT, out=self._gradients[weight])
        return self._gradients

    def descend(self, rates: Tensor, decay_factors: Sequence[Tensor | None]) -> None:
        """Multiply each weight by its decay factor, then subtract from each parameter its gradient times the rate.

        ``rates``, the learning rates, is float64 (M,). ``decay_factors`` has (M, 1, ...) for each parameter, or None
        for no decay. Those of the vectors are ignored, because biases and batch norm are never decayed.
        """
        rates = rates.to(self.parameters[0].dtype).view(-1, 1, 1)
        descent = -rates
        for layer, ((weight, vectors), gradients) in enumerate(zip(self._layers, self._vector_gradients, strict=True)):
            # The delta is multiplied by the rate and not the gradient of the weights, which is larger.
            delta = self._deltas[layer] * descent
            if layer > 0:
                _scale(self._weights[layer], decay_factors[weight]).baddbmm_(delta, self._inputs(layer).mT)
            else:
                # The inputs of the first layer are the images of each stream.
                self._descend_first(delta, decay_factors[weight])
            for index, gradient in zip(vectors, gradients, strict=True):
                self.parameters[index].addcmul_(gradient, rates.squeeze(2), value=-1)

    def _descend_first(self, delta: Tensor, decay_factor: Tensor | None) -> None:
        """Update the weights of the first layer. Its ``delta``, (M, U, n), is already multiplied by minus the rate."""
        streams = zip(self._weights[0].split(self._stream_sizes), self._delta_rows(delta), self._images, strict=True)
        factors = [None] * len(self._images) if decay_factor is None else decay_factor.split(self._stream_sizes)
        # One stream at a time, so that the weights are still in the CPU's cache for the product after the decay.
        for (weight, rows, images), factor in zip(streams, factors, strict=True):
            _scale(weight, factor).flatten(0, 1).addmm_(rows, images)

    def _inputs(self, layer: int) -> Tensor:
        """Return the inputs (M, D, n) of a layer after the first one."""
        return self._hidden[layer - 1][1].detach()

    def _delta_rows(self, delta: Tensor) -> Sequence[Tensor]:
        """Split the first layer's delta, (M, U, n), into a matrix for each stream: (members of the stream · U, n)."""
        rows: Sequence[Tensor] = delta.flatten(0, 1).split(self._stream_rows)
        return rows

    def evaluate(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Compute logits (M, n, K) of the same images (n, C, H, W) for all members, in evaluation mode.

        ``parameters``, (M, ...), are those of the stack or their moving averages.
        """
        (weight, vectors), *_ = self._layers
        members, units, _ = parameters[weight].shape
        # All members get the same images, as if they were one stream.
        outputs = (parameters[weight].flatten(0, 1) @ images.flatten(1).T).view(members, units, -1)
        if len(vectors) == 1:
            outputs = outputs + parameters[vectors[0]].unsqueeze(2)
        for layer, activation in enumerate(self._activations):
            leaves = [outputs, *(parameters[index] for index in self._layers[layer][1])]
            outputs = self._dense(layer + 1, activation(self._normed(layer, leaves, training=False)), parameters)
        return outputs.mT


def _scale(weight: Tensor, factor: Tensor | None) -> Tensor:
    """Multiply ``weight`` in place by ``factor``, if there is one, and return it."""
    return weight if factor is None else weight.mul_(factor)


def _layer_indices(parameters: Sequence[Tensor]) -> list[tuple[int, list[int]]]:
    """Return, for each layer, the index of its weight in ``parameters`` and those of the vectors that follow it."""
    layers: list[tuple[int, list[int]]] = []
    for index, parameter in enumerate(parameters):
        if parameter.ndim == 3:
            layers.append((index, []))
        else:
            layers[-1][1].append(index)
    return layers
