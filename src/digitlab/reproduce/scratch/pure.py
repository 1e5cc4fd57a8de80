"""The network of the course report R1 with the standard library alone: one dense layer from 784 pixels to 10 outputs.

It recognises digits; ``reproduce.executors`` trains it. The functions in the order of use: ``read_images`` and
``read_labels``, ``normalise``, ``learn`` (which uses ``shuffled_batches``, ``update``, ``evaluate`` and
``save_if_better``), ``plot_images`` and ``plot_grid``. The loss, called cost as in R1, is the mean squared error; the
target is 1 for the right digit and 0 for the others.
"""

import copy
import gzip
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path

SIDE = 28
PIXELS = SIDE * SIDE
CLASSES = 10
# The characters that draw a pixel, from black to white.
_SHADES = " ░▒▓█"


@dataclass(frozen=True, slots=True)
class Digit:
    """One image: the positions of the pixels that are not black (0 to 783), their values in (0, 1], and the label.

    Four out of five pixels are black. They change neither outputs nor weights, so they are left out to save time.
    """

    positions: tuple[int, ...]
    values: tuple[float, ...]
    label: int


@dataclass(slots=True)
class Layer:
    """``weights`` has a list of 784 numbers for each of the 10 outputs, ``biases`` one number for each."""

    weights: list[list[float]]
    biases: list[float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy in [0, 1] and mean cost over the validation images after ``step`` mini-batches."""

    step: int
    accuracy: float
    cost: float


@dataclass(slots=True)
class Learnt:
    """The most accurate layer so far and its evaluation, all evaluations in order, and the seconds spent in updates."""

    layer: Layer
    best: Evaluation
    history: list[Evaluation] = field(default_factory=list)
    update_seconds: float = 0.0


def read_images(path: Path) -> list[bytes]:
    """Read the images of an IDX file, plain or gzipped, as 784 grey values of one byte each.

    Raises ``ValueError`` for any other content.
    """
    shape, content = _read_idx(path)
    if shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{path}: must hold images of {SIDE} x {SIDE}, not {shape}")
    return [content[start : start + PIXELS] for start in range(0, len(content), PIXELS)]


def read_labels(path: Path) -> list[int]:
    """Read the labels of an IDX file, plain or gzipped. Raises ``ValueError`` for any other content."""
    shape, content = _read_idx(path)
    if len(shape) != 1:
        raise ValueError(f"{path}: must hold labels, not {shape}")
    return list(content)


def _read_idx(path: Path) -> tuple[tuple[int, ...], bytes]:
    """Return the shape and the content of an IDX file.

    Its header is two zero bytes, the type of the numbers (8 for bytes), the number of dimensions, and the size of each
    dimension in four bytes.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: not an IDX file of bytes")
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[position : position + 4], "big") for position in range(4, start, 4))
    if len(raw) - start != math.prod(shape):
        raise ValueError(f"{path}: {len(raw) - start} bytes, but its header says {shape}")
    return shape, raw[start:]


def normalise(pixels: bytes, label: int) -> Digit:
    """Convert an image of 784 bytes to a ``Digit`` with values in (0, 1]."""
    positions = tuple(position for position, value in enumerate(pixels) if value)
    return Digit(positions, tuple(pixels[position] / 255 for position in positions), label)


def new_layer(seed: int) -> Layer:
    """Return a layer with weights uniform in [0, 1/784) and biases of 0, so that its outputs are in [0, 1)."""
    draw = random.Random(seed).random
    return Layer([[draw() / PIXELS for _ in range(PIXELS)] for _ in range(CLASSES)], [0.0] * CLASSES)


def shuffled_batches(digits: Sequence[Digit], *, batch_size: int, generator: random.Random) -> Iterator[list[Digit]]:
    """Yield all digits once in a new order, ``batch_size`` at a time; the last mini-batch may be smaller."""
    shuffled = generator.sample(digits, len(digits))
    for start in range(0, len(shuffled), batch_size):
        yield shuffled[start : start + batch_size]


def predict(layer: Layer, digit: Digit) -> list[float]:
    """Return the ten outputs. The position of the largest one is the predicted digit."""
    return [
        bias + sum(map(mul, map(weights.__getitem__, digit.positions), digit.values))
        for weights, bias in zip(layer.weights, layer.biases, strict=True)
    ]


def cost(outputs: Sequence[float], label: int) -> float:
    """Return the mean squared error of the outputs; the target is 1 for ``label`` and 0 for the others."""
    return sum((output - (position == label)) ** 2 for position, output in enumerate(outputs)) / len(outputs)


def update(layer: Layer, batch: Sequence[Digit], *, step_size: float) -> None:
    """Make one step of gradient descent on the mean cost of a mini-batch."""
    # Compute all outputs before changing any weight, so that every image of the mini-batch uses the same weights.
    outputs = [predict(layer, digit) for digit in batch]
    # The derivative of the mean cost with respect to an output is 2 · (output - target), divided by the number of
    # outputs and by the number of images. For a weight, it is multiplied by the value of the pixel.
    scale = 2 * step_size / (CLASSES * len(batch))
    for digit, row in zip(batch, outputs, strict=True):
        for position, output in enumerate(row):
            change = scale * (output - (position == digit.label))
            layer.biases[position] -= change
            weights = layer.weights[position]
            for pixel, value in zip(digit.positions, digit.values, strict=True):
                weights[pixel] -= change * value


def evaluate(layer: Layer, digits: Sequence[Digit], *, step: int = 0) -> Evaluation:
    """Return accuracy and mean cost over ``digits``; ``step`` is the number of mini-batches before."""
    correct = total_cost = 0.0
    for digit in digits:
        outputs = predict(layer, digit)
        correct += outputs.index(max(outputs)) == digit.label
        total_cost += cost(outputs, digit.label)
    return Evaluation(step, correct / len(digits), total_cost / len(digits))


def learn(
    training: Sequence[Digit],
    validation: Sequence[Digit],
    *,
    epochs: int,
    batch_size: int,
    step_size: float,
    seed: int,
    evaluate_every: int = 1,
) -> Learnt:
    """Train a new layer, and evaluate it on ``validation`` every ``evaluate_every`` mini-batches and at the end.

    The result holds the layer with the best accuracy on ``validation``.
    """
    layer, generator = new_layer(seed), random.Random(seed)
    learnt = Learnt(copy.deepcopy(layer), evaluate(layer, validation))
    step, steps = 0, epochs * math.ceil(len(training) / batch_size)
    for _ in range(epochs):
        for batch in shuffled_batches(training, batch_size=batch_size, generator=generator):
            started = time.perf_counter()
            update(layer, batch, step_size=step_size)
            learnt.update_seconds += time.perf_counter() - started
            step += 1
            if step % evaluate_every == 0 or step == steps:
                save_if_better(learnt, layer, evaluate(layer, validation, step=step))
    return learnt


def save_if_better(learnt: Learnt, layer: Layer, evaluation: Evaluation) -> None:
    """Record an evaluation, and copy ``layer`` if it is the most accurate so far."""
    learnt.history.append(evaluation)
    if evaluation.accuracy > learnt.best.accuracy:
        learnt.best, learnt.layer = evaluation, copy.deepcopy(layer)


def plot_images(images: Sequence[bytes], labels: Sequence[int], prediction: Sequence[int] | None = None) -> str:
    """Draw images as text, one below the other, with labels; with ``prediction`` also ✓, or ✗ and the prediction."""
    return "\n".join(line for picture in _pictures(images, labels, prediction) for line in picture)


def plot_grid(
    images: Sequence[bytes], labels: Sequence[int], prediction: Sequence[int] | None = None, *, columns: int = 4
) -> str:
    """Draw images as ``plot_images`` does, with ``columns`` of them side by side."""
    pictures = _pictures(images, labels, prediction)
    lines = []
    for start in range(0, len(pictures), columns):
        lines += ["  ".join(parts).rstrip() for parts in zip(*pictures[start : start + columns], strict=True)]
    return "\n".join(lines)


def _pictures(images: Sequence[bytes], labels: Sequence[int], prediction: Sequence[int] | None) -> list[list[str]]:
    """Return the lines of text of each image, with a title as the first line."""
    titles = [str(label) for label in labels]
    if prediction is not None:
        pairs = zip(labels, prediction, strict=True)
        titles = [f"{label} ✓" if label == digit else f"{label} ✗ read as {digit}" for label, digit in pairs]
    return [[title.ljust(SIDE), *_picture(pixels)] for title, pixels in zip(titles, images, strict=True)]


def _picture(pixels: bytes) -> Iterator[str]:
    """Draw one image as lines of text. A line shows two rows of pixels: characters are twice as high as wide."""
    for start in range(0, PIXELS, 2 * SIDE):
        # The mean of both pixels, each in 0 … 255, chooses the character.
        pairs = zip(pixels[start : start + SIDE], pixels[start + SIDE : start + 2 * SIDE], strict=True)
        yield "".join(_SHADES[round((upper + lower) / 510 * (len(_SHADES) - 1))] for upper, lower in pairs)
