"""Dense networks in NumPy: forward, backward, mini-batch SGD, and a gradient check by finite differences.

``reproduce.executors`` trains with it. N images of D pixels in [0, 1], K classes. All arithmetic uses the dtype of the
weights; ``glorot`` makes float64.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from digitlab.core.errors import ConfigError

Array = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Activation = Literal["relu", "tanh", "sigmoid", "softmax", "linear"]
Loss = Literal["mse", "cross_entropy"]


@dataclass(slots=True)
class Dense:
    """One layer: ``weights`` (inputs, units), ``bias`` (units,), and the activation of its outputs."""

    weights: Array
    bias: Array
    activation: Activation

    def __call__(self, inputs: Array) -> Array:
        """Inputs (N, inputs) to outputs (N, units)."""
        return _ACTIVATIONS[self.activation](inputs @ self.weights + self.bias)


@dataclass(frozen=True, slots=True)
class Gradient:
    """The derivatives of the loss with respect to one layer's ``weights`` and ``bias``, in the same shapes."""

    weights: Array
    bias: Array


class Network:
    """A sequence of dense layers and the loss that they minimise.

    ``mse`` is the mean of (output - target)² over outputs and images. ``cross_entropy`` is the mean over images of the
    negative logarithm of the right class's output; it raises ``ConfigError`` unless the last activation is softmax.
    """

    def __init__(self, layers: Sequence[Dense], *, loss: Loss) -> None:
        if loss == "cross_entropy" and layers[-1].activation != "softmax":
            raise ConfigError(
                "activation", layers[-1].activation, "must be softmax in the last layer for cross_entropy"
            )
        self.layers, self.loss = list(layers), loss

    def __call__(self, images: Array) -> Array:
        """Images (N, D) to outputs (N, K)."""
        return self._outputs(images)[-1]

    def _outputs(self, images: Array) -> list[Array]:
        outputs = [images]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return outputs

    def cost(self, images: Array, labels: Ints) -> float:
        """The mean loss over images (N, D) with labels (N,) in 0 … K - 1."""
        return self.cost_of(self(images), labels)

    def cost_of(self, outputs: Array, labels: Ints) -> float:
        """The mean loss of given outputs (N, K)."""
        if self.loss == "mse":
            return float(np.mean((outputs - one_hot(labels, outputs)) ** 2))
        return float(-np.mean(np.log(outputs[np.arange(len(labels)), labels])))

    def gradients(self, images: Array, labels: Ints) -> list[Gradient]:
        """The gradients of ``cost``, one for each layer, by backpropagation (Rumelhart, Hinton and Williams, 1986)."""
        outputs = self._outputs(images)
        error = self._output_error(outputs[-1], one_hot(labels, outputs[-1]))
        found: list[Gradient] = []
        for number in range(len(self.layers) - 1, -1, -1):
            inputs = outputs[number]
            found.append(Gradient(inputs.T @ error, error.sum(axis=0)))
            if number > 0:
                slope = _BACKWARD[self.layers[number - 1].activation]
                error = slope(inputs, error @ self.layers[number].weights.T)
        return found[::-1]

    def _output_error(self, outputs: Array, targets: Array) -> Array:
        """The derivative of the cost with respect to the inputs of the last activation, (N, K)."""
        if self.loss == "cross_entropy":
            # The derivative through softmax and logarithm together: separately, one divides by outputs that may be 0.
            return (outputs - targets) / len(outputs)
        return _BACKWARD[self.layers[-1].activation](outputs, 2 * (outputs - targets) / outputs.size)

    def descend(self, images: Array, labels: Ints, *, lr: float) -> None:
        """One step of gradient descent on a mini-batch."""
        for layer, gradient in zip(self.layers, self.gradients(images, labels), strict=True):
            layer.weights -= lr * gradient.weights
            layer.bias -= lr * gradient.bias


def train(network: Network, images: Array, labels: Ints, *, batches: Iterable[Ints], lr: float) -> None:
    """Mini-batch SGD: one step for each item of ``batches``, which are indices into images (N, D) and labels (N,)."""
    for index in batches:
        network.descend(images[index], labels[index], lr=lr)


def gradient_check(network: Network, images: Array, labels: Ints, *, step: float = 1e-5) -> float:
    """The largest error of the gradients, compared with central differences for each weight and bias.

    The error is relative to the largest derivative of the same layer's weights or biases. Weights must be float64: in
    float32 the differences consist of rounding errors.
    """
    worst = 0.0
    for layer, gradient in zip(network.layers, network.gradients(images, labels), strict=True):
        for values, analytic in ((layer.weights, gradient.weights), (layer.bias, gradient.bias)):
            numeric = _central_differences(values, lambda: network.cost(images, labels), step)
            largest = max(float(np.abs(numeric).max()), float(np.abs(analytic).max()), np.finfo(np.float64).tiny)
            worst = max(worst, float(np.abs(numeric - analytic).max()) / largest)
    return worst


def _central_differences(values: Array, cost: Callable[[], float], step: float) -> Array:
    differences = np.empty_like(values)
    for index in np.ndindex(values.shape):
        before = values[index]
        values[index] = before + step
        above = cost()
        values[index] = before - step
        differences[index] = (above - cost()) / (2 * step)
        values[index] = before
    return differences


def glorot(units: Sequence[int], activations: Sequence[Activation], *, seed: int) -> list[Dense]:
    """Layers from ``units[0]`` pixels to ``units[-1]`` classes with uniform weights (Glorot, 2010) and biases of 0."""
    random = np.random.default_rng(seed)
    layers = []
    for fan_in, fan_out, activation in zip(units, units[1:], activations, strict=False):
        bound = np.sqrt(6 / (fan_in + fan_out))
        layers.append(Dense(random.uniform(-bound, bound, (fan_in, fan_out)), np.zeros(fan_out), activation))
    return layers


def one_hot(labels: Ints, outputs: Array) -> Array:
    """Targets in the shape and dtype of ``outputs`` (N, K): 1 for the class in ``labels`` (N,), 0 for the others."""
    targets = np.zeros_like(outputs)
    targets[np.arange(len(labels)), labels] = 1
    return targets


def _sigmoid(inputs: Array) -> Array:
    # tanh does not overflow for large negative inputs; exp(-x) would.
    outputs: Array = 0.5 * (1 + np.tanh(0.5 * inputs))
    return outputs


def _softmax(inputs: Array) -> Array:
    powers = np.exp(inputs - inputs.max(axis=1, keepdims=True))
    outputs: Array = powers / powers.sum(axis=1, keepdims=True)
    return outputs


_ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "relu": lambda inputs: np.maximum(inputs, 0),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "linear": lambda inputs: inputs,
}

# Arguments: an activation's outputs and the derivative with respect to them. Result: the derivative for its inputs.
_BACKWARD: dict[Activation, Callable[[Array, Array], Array]] = {
    "relu": lambda outputs, error: error * (outputs > 0),
    "tanh": lambda outputs, error: error * (1 - outputs**2),
    "sigmoid": lambda outputs, error: error * outputs * (1 - outputs),
    "softmax": lambda outputs, error: outputs * (error - (error * outputs).sum(axis=1, keepdims=True)),
    "linear": lambda outputs, error: error,
}
