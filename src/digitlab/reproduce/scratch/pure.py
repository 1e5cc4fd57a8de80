"""R1's network by the standard library alone: one dense layer from 784 pixels to 10 outputs that learns to read digits.

In the order of use: ``read_images`` and ``read_labels``, ``normalise``, ``learn`` (``shuffled_batches``, ``update``,
``evaluate``, ``save_if_better``), ``plot_images`` and ``plot_grid`` for a look. It learns by the mean squared error of
the outputs against 1 for the right digit and 0 for the others.
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
_SHADES = " ░▒▓█"


@dataclass(frozen=True, slots=True)
class Digit:
    """One image: where its pixels are not black (places in 0 … 783), their values in (0, 1], and its label.

    Four pixels in five are black and neither change an output nor are learnt from, so nothing is computed for them.
    """

    places: tuple[int, ...]
    values: tuple[float, ...]
    label: int


@dataclass(slots=True)
class Layer:
    """``weights``, a list of 784 for each of the 10 outputs, and ``biases``, one each."""

    weights: list[list[float]]
    biases: list[float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy in [0, 1] and mean cost over images that were not learnt from, after ``step`` mini-batches."""

    step: int
    accuracy: float
    cost: float


@dataclass(slots=True)
class Learnt:
    """The layer that was most accurate so far, every evaluation in order, and the seconds that the updates took."""

    layer: Layer
    best: Evaluation
    history: list[Evaluation] = field(default_factory=list)
    update_seconds: float = 0.0


def read_images(path: Path) -> list[bytes]:
    """The images of an IDX file, plain or gzipped: 784 grey values of a byte each; ``ValueError`` for others."""
    shape, content = _read_idx(path)
    if shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{path}: must hold images of {SIDE} x {SIDE}, not {shape}")
    return [content[start : start + PIXELS] for start in range(0, len(content), PIXELS)]


def read_labels(path: Path) -> list[int]:
    """The labels of an IDX file, plain or gzipped; ``ValueError`` if it holds anything else."""
    shape, content = _read_idx(path)
    if len(shape) != 1:
        raise ValueError(f"{path}: must hold labels, not {shape}")
    return list(content)


def _read_idx(path: Path) -> tuple[tuple[int, ...], bytes]:
    """Shape and content: two zero bytes, the type (8: bytes), the number of sizes, then each size in four bytes."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: is no IDX file of bytes")
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[place : place + 4], "big") for place in range(4, start, 4))
    if len(raw) - start != math.prod(shape):
        raise ValueError(f"{path}: {len(raw) - start} bytes, but its header says {shape}")
    return shape, raw[start:]


def normalise(pixels: bytes, label: int) -> Digit:
    """An image of bytes as a ``Digit`` with values in (0, 1]."""
    places = tuple(place for place, value in enumerate(pixels) if value)
    return Digit(places, tuple(pixels[place] / 255 for place in places), label)


def new_layer(seed: int) -> Layer:
    """Weights uniform in [0, 1) / 784, biases 0."""
    draw = random.Random(seed).random
    return Layer([[draw() / PIXELS for _ in range(PIXELS)] for _ in range(CLASSES)], [0.0] * CLASSES)


def shuffled_batches(digits: Sequence[Digit], *, batch_size: int, order: random.Random) -> Iterator[list[Digit]]:
    """All digits once, in a new order, ``batch_size`` at a time."""
    shuffled = order.sample(digits, len(digits))
    for start in range(0, len(shuffled), batch_size):
        yield shuffled[start : start + batch_size]


def predict(layer: Layer, digit: Digit) -> list[float]:
    """The ten outputs; the largest one's place is the digit that the layer reads."""
    return [
        bias + sum(map(mul, map(weights.__getitem__, digit.places), digit.values))
        for weights, bias in zip(layer.weights, layer.biases, strict=True)
    ]


def cost(outputs: Sequence[float], label: int) -> float:
    """The mean over the outputs of their squared distance from 1 for ``label`` and 0 for the others."""
    return sum((output - (place == label)) ** 2 for place, output in enumerate(outputs)) / len(outputs)


def update(layer: Layer, batch: Sequence[Digit], *, step_size: float) -> None:
    """One step down the gradient of the mean cost of a mini-batch."""
    # All outputs before any change: every image of the batch meets the same weights.
    outputs = [predict(layer, digit) for digit in batch]
    scale = 2 * step_size / (CLASSES * len(batch))
    for digit, row in zip(batch, outputs, strict=True):
        for place, output in enumerate(row):
            change = scale * (output - (place == digit.label))
            layer.biases[place] -= change
            weights = layer.weights[place]
            for pixel, value in zip(digit.places, digit.values, strict=True):
                weights[pixel] -= change * value


def evaluate(layer: Layer, digits: Sequence[Digit], *, step: int = 0) -> Evaluation:
    """Accuracy and mean cost over ``digits``."""
    hits = total = 0.0
    for digit in digits:
        outputs = predict(layer, digit)
        hits += outputs.index(max(outputs)) == digit.label
        total += cost(outputs, digit.label)
    return Evaluation(step, hits / len(digits), total / len(digits))


def learn(
    training: Sequence[Digit],
    unseen: Sequence[Digit],
    *,
    epochs: int,
    batch_size: int,
    step_size: float,
    seed: int,
    evaluate_every: int = 1,
) -> Learnt:
    """Learn from ``training``; every ``evaluate_every`` mini-batches, and at the end, look at ``unseen``.

    The layer is kept whenever it is more accurate there than ever before.
    """
    layer, order = new_layer(seed), random.Random(seed)
    learnt = Learnt(copy.deepcopy(layer), evaluate(layer, unseen))
    step, steps = 0, epochs * math.ceil(len(training) / batch_size)
    for _ in range(epochs):
        for batch in shuffled_batches(training, batch_size=batch_size, order=order):
            started = time.perf_counter()
            update(layer, batch, step_size=step_size)
            learnt.update_seconds += time.perf_counter() - started
            step += 1
            if step % evaluate_every == 0 or step == steps:
                save_if_better(learnt, layer, evaluate(layer, unseen, step=step))
    return learnt


def save_if_better(learnt: Learnt, layer: Layer, found: Evaluation) -> None:
    """Note an evaluation, and keep a copy of ``layer`` if it is the most accurate so far."""
    learnt.history.append(found)
    if found.accuracy > learnt.best.accuracy:
        learnt.best, learnt.layer = found, copy.deepcopy(layer)


def plot_images(images: Sequence[bytes], labels: Sequence[int], prediction: Sequence[int] | None = None) -> str:
    """Images one below the other, each under its label; with ``prediction``, ✓ or ✗ and what was read, too."""
    return "\n".join(line for picture in _pictures(images, labels, prediction) for line in picture)


def plot_grid(
    images: Sequence[bytes], labels: Sequence[int], prediction: Sequence[int] | None = None, *, columns: int = 4
) -> str:
    """As ``plot_images``, with ``columns`` of them side by side."""
    pictures = _pictures(images, labels, prediction)
    lines = []
    for start in range(0, len(pictures), columns):
        lines += ["  ".join(parts).rstrip() for parts in zip(*pictures[start : start + columns], strict=True)]
    return "\n".join(lines)


def _pictures(images: Sequence[bytes], labels: Sequence[int], prediction: Sequence[int] | None) -> list[list[str]]:
    titles = [str(label) for label in labels]
    if prediction is not None:
        pairs = zip(labels, prediction, strict=True)
        titles = [f"{label} ✓" if label == read else f"{label} ✗ read as {read}" for label, read in pairs]
    return [[title.ljust(SIDE), *_picture(pixels)] for title, pixels in zip(titles, images, strict=True)]


def _picture(pixels: bytes) -> Iterator[str]:
    """An image as lines of text, two rows of pixels a line, as characters are about twice as high as wide."""
    for start in range(0, PIXELS, 2 * SIDE):
        pairs = zip(pixels[start : start + SIDE], pixels[start + SIDE : start + 2 * SIDE], strict=True)
        yield "".join(_SHADES[round((upper + lower) / 510 * (len(_SHADES) - 1))] for upper, lower in pairs)
