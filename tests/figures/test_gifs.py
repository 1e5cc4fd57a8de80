"""GIFs of the weights during training: they start at zero and all frames share one scale."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from digitlab.figures.gifs import gif, learning_weights, weight_frames


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (12, 1, 6, 6), generator=generator).byte(), torch.arange(12) % 3


def numpy_weights(images, labels, batch_size):
    """Gradient descent on the mean squared error in NumPy: weights (T, K, pixels)."""
    inputs = images.flatten(1).double().numpy() / 255
    targets = np.eye(3)[labels]
    rate = 3 / (4 * (inputs**2).sum(1).mean())
    weights, biases, frames = np.zeros((3, inputs.shape[1])), np.zeros(3), [np.zeros((3, inputs.shape[1]))]
    for start in range(0, len(inputs), batch_size):
        x, y = inputs[start : start + batch_size], targets[start : start + batch_size]
        error = 2 * (x @ weights.T + biases - y) / y.size
        weights, biases = weights - rate * error.T @ x, biases - rate * error.sum(0)
        frames.append(weights)
    return np.stack(frames)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_weights_are_those_of_gradient_descent_from_zero(images, batch_size):
    weights = learning_weights(*images, classes=3, batch_size=batch_size)
    assert weights.flatten(2).numpy() == pytest.approx(numpy_weights(*images, batch_size), abs=1e-6)
    assert not weights[0].any()


@pytest.mark.parametrize(("steps_per_frame", "frames"), [(1, 13), (4, 4), (5, 4), (100, 2)])
def test_frames_follow_steps_per_frame_and_include_the_end(images, steps_per_frame, frames):
    weights = learning_weights(*images, classes=3, steps_per_frame=steps_per_frame)
    assert weights.shape == (frames, 3, 1, 6, 6)
    assert torch.equal(weights[-1], learning_weights(*images, classes=3)[-1])


def test_training_for_a_gif_keeps_the_global_random_state(images):
    state = torch.get_rng_state()
    learning_weights(*images, classes=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gif_contains_every_frame(channels):
    weights = torch.linspace(0, 1, 5)[:, None, None, None, None] * torch.randn(2, channels, 6, 6)
    notes = [f"images shown: {frame}" for frame in range(5)]
    frames = weight_frames(weights, names=["cat", "dog"], notes=notes, limit=float(weights.abs().max()), title="t")
    with Image.open(io.BytesIO(gif(frames))) as read:
        assert read.n_frames == 5
        assert read.info["loop"] == 0
        pages = []
        for page in range(5):
            read.seek(page)
            pages.append(np.asarray(read.convert("RGB")))
    assert all((one != other).any() for one, other in itertools.pairwise(pages))
