"""A peer: an MLP and its gradient written in NumPy; like the bare loop, it has the training step and nothing else.

n images in a mini-batch, D pixels, U units, K classes.
"""

import itertools
import time

import numpy as np
from numpy.typing import NDArray

from workloads import CLASSES, Workload, training_split

Array = NDArray[np.float32]


class NumpyLoop:
    """Trains by plain gradient descent on normalised float32 images, on the processor whatever ``device`` is."""

    def __init__(self, workload: Workload, device: str) -> None:
        split = training_split(workload)
        self.workload = workload
        self._images: Array = split.images.flatten(1).numpy()
        self._targets: Array = np.eye(CLASSES, dtype=np.float32)[split.labels.numpy()]
        self._random = np.random.default_rng(0)
        sizes = [self._images.shape[1], *workload.hidden, CLASSES]
        self._layers: list[tuple[Array, Array]] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = fan_in**-0.5
            weight, bias = (self._random.uniform(-bound, bound, shape) for shape in ((fan_in, fan_out), (fan_out,)))
            self._layers.append((weight.astype(np.float32), bias.astype(np.float32)))

    def epoch_seconds(self) -> list[float]:
        seconds = []
        for _ in range(self.workload.epochs):
            started_at = time.perf_counter()
            order = self._random.permutation(len(self._images))
            for begin in range(0, len(order), self.workload.batch_size):
                index = order[begin : begin + self.workload.batch_size]
                self._step(self._images[index], self._targets[index])
            seconds.append(time.perf_counter() - started_at)
        return seconds

    def _step(self, images: Array, targets: Array) -> None:
        """Make one update on images (n, D) with one-hot targets (n, K), by backpropagation."""
        # The inputs of each layer.
        inputs = [images]
        for weight, bias in self._layers[:-1]:
            inputs.append(self._activation(inputs[-1] @ weight + bias))
        weight, bias = self._layers[-1]
        gradient = self._gradient(inputs[-1] @ weight + bias, targets)
        for layer in reversed(range(len(self._layers))):
            weight, bias = self._layers[layer]
            # Computed first, because the next lines change the weight in place.
            input_gradient = gradient @ weight.T if layer else None
            weight -= self.workload.learning_rate * (inputs[layer].T @ gradient)
            bias -= self.workload.learning_rate * gradient.sum(0)
            if input_gradient is not None:
                gradient = input_gradient * self._slope(inputs[layer])

    def _activation(self, values: Array) -> Array:
        return np.maximum(values, 0) if self.workload.activation == "relu" else _sigmoid(values)

    def _slope(self, outputs: Array) -> Array:
        """Return the derivative of the activation, computed from its outputs (n, U)."""
        return (outputs > 0).astype(np.float32) if self.workload.activation == "relu" else outputs * (1 - outputs)

    def _gradient(self, logits: Array, targets: Array) -> Array:
        """Return the gradient of the mean loss with respect to the logits (n, K)."""
        if self.workload.loss == "mse":
            outputs = _sigmoid(logits)
            return 2 / outputs.size * (outputs - targets) * outputs * (1 - outputs)
        # Subtracting the maximum changes no probability and keeps the powers finite.
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return (powers / powers.sum(1, keepdims=True) - targets) / len(logits)


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))
