"""Dense networks in NumPy: forward, backward, mini-batch SGD, and a gradient check by finite differences.

``reproduce.executors`` trains these networks, and tests compare training in PyTorch with them. All arithmetic uses the
dtype of the weights; ``glorot`` makes float64. Shapes: N images of D pixels in [0, 1], K classes.
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
        """Return the outputs (N, units) for N rows of inputs (N, inputs)."""
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
        """Return the outputs (N, K) for images (N, D)."""
        return self._outputs(images)[-1]

    def _outputs(self, images: Array) -> list[Array]:
        """Return the inputs of the first layer, which are the images, and then the outputs of each layer."""
        outputs = [images]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return outputs

    def cost(self, images: Array, labels: Ints) -> float:
        """Return the mean loss over images (N, D) with labels (N,) in 0 … K - 1."""
        return self.cost_of(self(images), labels)

    def cost_of(self, outputs: Array, labels: Ints) -> float:
        """Return the mean loss of outputs (N, K) that were computed before."""
        if self.loss == "mse":
            return float(np.mean((outputs - one_hot(labels, outputs)) ** 2))
        return float(-np.mean(np.log(outputs[np.arange(len(labels)), labels])))

    def gradients(self, images: Array, labels: Ints) -> list[Gradient]:
        """Return the gradient of ``cost`` for each layer, by backpropagation (Rumelhart, Hinton and Williams, 1986)."""
        outputs = self._outputs(images)
        # ``error`` is the derivative of the cost with respect to the inputs of a layer's activation, (N, units).
        error = self._output_error(outputs[-1], one_hot(labels, outputs[-1]))
        from_last_layer: list[Gradient] = []
        for number in range(len(self.layers) - 1, -1, -1):
            inputs = outputs[number]
            from_last_layer.append(Gradient(inputs.T @ error, error.sum(axis=0)))
            if number > 0:
                backward = _BACKWARD[self.layers[number - 1].activation]
                error = backward(inputs, error @ self.layers[number].weights.T)
        return from_last_layer[::-1]

    def _output_error(self, outputs: Array, targets: Array) -> Array:
        """Return the derivative of the cost with respect to the inputs of the last activation, (N, K)."""
        if self.loss == "cross_entropy":
            # This is the derivative of softmax and logarithm together. That of the logarithm alone divides by the
            # outputs, which may be 0.
            return (outputs - targets) / len(outputs)
        return _BACKWARD[self.layers[-1].activation](outputs, 2 * (outputs - targets) / outputs.size)

    def descend(self, images: Array, labels: Ints, *, lr: float) -> None:
        """Change weights and biases by one step of gradient descent on a mini-batch."""
        for layer, gradient in zip(self.layers, self.gradients(images, labels), strict=True):
            layer.weights -= lr * gradient.weights
            layer.bias -= lr * gradient.bias


def train(network: Network, images: Array, labels: Ints, *, batches: Iterable[Ints], lr: float) -> None:
    """Train by mini-batch SGD. Each item of ``batches`` is one mini-batch: indices of images (N, D) and labels (N,)."""
    for index in batches:
        network.descend(images[index], labels[index], lr=lr)


def gradient_check(network: Network, images: Array, labels: Ints, *, step: float = 1e-5) -> float:
    """Compare each derivative with a central difference of width 2 · ``step``, and return the largest relative error.

    An error is divided by the largest derivative of the weights, or of the biases, of the same layer. Weights must be
    float64, because float32 differences would consist of rounding errors.
    """
    worst = 0.0
    for layer, gradient in zip(network.layers, network.gradients(images, labels), strict=True):
        for values, analytic in ((layer.weights, gradient.weights), (layer.bias, gradient.bias)):
            numeric = _central_differences(values, lambda: network.cost(images, labels), step)
            largest = max(float(np.abs(numeric).max()), float(np.abs(analytic).max()), np.finfo(np.float64).tiny)
            worst = max(worst, float(np.abs(numeric - analytic).max()) / largest)
    return worst


def _central_differences(values: Array, cost: Callable[[], float], step: float) -> Array:
    """Return the difference quotient of ``cost`` for each item of ``values``, which is changed and restored."""
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
    """Make layers from ``units[0]`` pixels to ``units[-1]`` classes: uniform weights (Glorot, 2010), biases of 0."""
    random = np.random.default_rng(seed)
    layers = []
    # Neighbours in ``units`` are the inputs and outputs of a layer. So ``units`` is longer than ``activations`` by one.
    for fan_in, fan_out, activation in zip(units, units[1:], activations, strict=False):
        bound = np.sqrt(6 / (fan_in + fan_out))
        layers.append(Dense(random.uniform(-bound, bound, (fan_in, fan_out)), np.zeros(fan_out), activation))
    return layers


def one_hot(labels: Ints, outputs: Array) -> Array:
    """Return targets with the shape and dtype of ``outputs`` (N, K): 1 for the class of each label, 0 elsewhere."""
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

# Each function takes the outputs of an activation and the derivative of the cost with respect to them. It returns the
# derivative of the cost with respect to the inputs of the activation.
_BACKWARD: dict[Activation, Callable[[Array, Array], Array]] = {
    "relu": lambda outputs, error: error * (outputs > 0),
    "tanh": lambda outputs, error: error * (1 - outputs**2),
    "sigmoid": lambda outputs, error: error * outputs * (1 - outputs),
    "softmax": lambda outputs, error: outputs * (error - (error * outputs).sum(axis=1, keepdims=True)),
    "linear": lambda outputs, error: error,
}
