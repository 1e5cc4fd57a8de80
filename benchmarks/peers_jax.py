"""A peer: a whole epoch as one jitted ``lax.scan`` in JAX, so that Python does nothing between the steps.

It does what an epoch of digitlab does: bytes are cast and normalised in the step; loss and correct predictions are
counted. It supports only MLPs with plain gradient descent: XLA's convolutions take four times as long in a loop as
outside. n images in a mini-batch, K classes; ``Weights`` is a list of (weight, bias), one for each layer.
"""

import itertools
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from workloads import CLASSES, TrainingSplit, Workload, training_split

Weights = list[tuple[Array, Array]]
# Weights, (pixels, labels) and indices (n,) → weights, (sum of the losses, number of correct predictions).
Step = Callable[[Weights, tuple[Array, Array], Array], tuple[Weights, tuple[Array, Array]]]


class JaxScan:
    """Keeps its weights on the device between rounds. The constructor trains for one epoch, which compiles it."""

    def __init__(self, workload: Workload, device: str) -> None:
        split = training_split(workload)
        self.workload = workload
        self._random = np.random.default_rng(0)
        pixels, labels = split.pixels.flatten(1).numpy(), split.labels.numpy().astype(np.int32)
        self._set = jnp.asarray(pixels), jnp.asarray(labels)
        self._weights = _initial_weights(workload, pixels.shape[1], self._random)
        self._epoch = jax.jit(partial(_epoch, _step(workload, split)), donate_argnums=0)
        self._train()

    def epoch_seconds(self) -> list[float]:
        seconds = []
        for _ in range(self.workload.epochs):
            started_at = time.perf_counter()
            self._train()
            seconds.append(time.perf_counter() - started_at)
        return seconds

    def _train(self) -> tuple[float, int]:
        """Train for one epoch; return the sum of the losses over the images and the number of correct predictions."""
        order = self._random.permutation(len(self._set[0])).astype(np.int32)
        full_batches, size = len(order) // self.workload.batch_size, self.workload.batch_size
        batches, rest = order[: full_batches * size].reshape(full_batches, size), order[full_batches * size :]
        self._weights, (losses, correct) = self._epoch(self._weights, self._set, batches, rest)
        # JAX computes in the background. These conversions wait until the epoch is over.
        return float(losses), int(correct)


def _epoch(
    step: Step, weights: Weights, images: tuple[Array, Array], batches: Array, rest: Array
) -> tuple[Weights, tuple[Array, Array]]:
    """Train on mini-batches ``batches`` (B, n) and then the smaller ``rest`` (m,), both indices into ``images``."""
    weights, (losses, correct) = lax.scan(lambda weights, index: step(weights, images, index), weights, batches)
    sums = losses.sum(), correct.sum()
    if len(rest):
        weights, (loss_of_rest, correct_in_rest) = step(weights, images, rest)
        sums = sums[0] + loss_of_rest, sums[1] + correct_in_rest
    return weights, sums


def _step(workload: Workload, split: TrainingSplit) -> Step:
    """Return a function that makes one update with weights, images and labels, and the indices (n,) of a mini-batch."""
    mean, std = (np.array(values)[:, None, None] for values in (split.mean, split.std))
    shape = tuple(split.pixels.shape[1:])
    # The factor and the offset that turn each byte of a flat image into a normalised value.
    scale, shift = (
        jnp.asarray(np.broadcast_to(by_channel, shape).ravel(), jnp.float32)
        for by_channel in (1 / (255 * std), -mean / std)
    )
    activation = jax.nn.relu if workload.activation == "relu" else jax.nn.sigmoid

    def loss_of(weights: Weights, values: Array, labels: Array) -> tuple[Array, Array]:
        for weight, bias in weights[:-1]:
            values = activation(values @ weight + bias)
        weight, bias = weights[-1]
        logits, targets = values @ weight + bias, jax.nn.one_hot(labels, CLASSES)
        if workload.loss == "mse":
            return jnp.mean((jax.nn.sigmoid(logits) - targets) ** 2), logits
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), 1)), logits

    def step(weights: Weights, images: tuple[Array, Array], index: Array) -> tuple[Weights, tuple[Array, Array]]:
        pixels, labels = (each[index] for each in images)
        values = pixels.astype(jnp.float32) * scale + shift
        (loss, logits), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights, values, labels)
        weights = jax.tree.map(lambda weight, slope: weight - workload.learning_rate * slope, weights, gradients)
        return weights, (loss * len(index), jnp.sum(logits.argmax(1) == labels))

    return step


def _initial_weights(workload: Workload, pixels: int, random: np.random.Generator) -> Weights:
    units = [pixels, *workload.hidden, CLASSES]
    weights = []
    for fan_in, fan_out in itertools.pairwise(units):
        values = (random.uniform(-1, 1, shape) * fan_in**-0.5 for shape in ((fan_in, fan_out), (fan_out,)))
        weight, bias = (jnp.asarray(value, jnp.float32) for value in values)
        weights.append((weight, bias))
    return weights
