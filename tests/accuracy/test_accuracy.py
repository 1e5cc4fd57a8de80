"""Learning must not get worse unnoticed: short trainings on real data stay within three standard deviations.

The limits are mean ∓ 3 standard deviations (n - 1) over the seeds 0 to 9: a minimum for the test accuracy and a maximum
for the test loss. ``recipes.py`` holds the commands and measures the ten seeds again.
"""

import os
from functools import cached_property
from pathlib import Path

import pytest
import torch

from accuracy.recipes import RECIPES, read_test_metrics
from digitlab.config.compose import ROOT
from digitlab.data.chunks import Chunk

# By recipe and learning rate: mean and standard deviation of the accuracy, then of the loss; n = 10.
# AMD EPYC, one thread; Python 3.11.7, torch 2.15.0, lightning 2.6.6; 2026-11-28.
MEASURED = {
    ("mlp on MNIST", "0.1"): ((0.9219, 0.0177), (0.2540, 0.0531)),
    ("lenet on MNIST", "0.002"): ((0.9245, 0.0075), (0.2454, 0.0229)),
    ("mlp on CIFAR-10", "0.02"): ((0.3979, 0.0050), (1.6953, 0.0097)),
    ("population on MNIST", "0.2"): ((0.8990, 0.0337), (0.3236, 0.1002)),
    ("population on MNIST", "0.1"): ((0.8967, 0.0249), (0.3294, 0.0706)),
    ("population on MNIST", "0.05"): ((0.8936, 0.0112), (0.3560, 0.0326)),
}


def data_is_there(recipe):
    root = Path(os.environ.get("DIGITLAB_DATA", ROOT / "data"))
    # MNIST comes with the package.
    return recipe.data_folder == "MNIST" or (root / recipe.data_folder).is_dir()


def failures(train_py, recipe, folder):
    """Train with seed 0; returns a line for each limit that a run of the recipe misses."""
    done = train_py(*recipe.command(seed=0, folder=folder))
    assert done.returncode == 0, done.stderr
    found = read_test_metrics(folder)
    assert found.keys() == {rate for name, rate in MEASURED if name == recipe.name}
    lines = []
    for rate, (accuracy, loss) in found.items():
        (accuracy_mean, accuracy_sd), (loss_mean, loss_sd) = MEASURED[recipe.name, rate]
        if accuracy < accuracy_mean - 3 * accuracy_sd:
            lines.append(f"rate {rate}: accuracy {accuracy:.4f} is below {accuracy_mean - 3 * accuracy_sd:.4f}")
        if loss > loss_mean + 3 * loss_sd:
            lines.append(f"rate {rate}: loss {loss:.4f} is above {loss_mean + 3 * loss_sd:.4f}")
    return lines


@pytest.mark.sample(4)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_learning_is_as_good_as_it_was(train_py, tmp_path, recipe):
    if not data_is_there(recipe):
        pytest.skip(f"data/ has no {recipe.data_folder}")
    assert failures(train_py, recipe, tmp_path) == []


@pytest.fixture
def weak_gradients(monkeypatch):
    """Every gradient is 0.3 times what it should be."""
    backward = torch.Tensor.backward

    def weak_backward(tensor, *arguments, **named):
        return backward(0.3 * tensor, *arguments, **named)

    monkeypatch.setattr(torch.Tensor, "backward", weak_backward)


@pytest.fixture
def wrong_labels(monkeypatch):
    """A fifth of the training labels are those of other images; validation and test keep theirs."""
    right = Chunk.labels.func

    def wrong(chunk):
        labels = right(chunk)
        draw = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
        return torch.where(draw < 0.2, labels.roll(1), labels)

    labels = cached_property(wrong)
    labels.__set_name__(Chunk, "labels")
    monkeypatch.setattr(Chunk, "labels", labels)


@pytest.mark.extra
@pytest.mark.parametrize(
    ("name", "fault"), [("mlp on CIFAR-10", "weak_gradients"), ("population on MNIST", "wrong_labels")]
)
def test_a_fault_that_makes_learning_worse_is_found(train_py, tmp_path, request, name, fault):
    request.getfixturevalue(fault)
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
    if not data_is_there(recipe):
        pytest.skip(f"data/ has no {recipe.data_folder}")
    assert failures(train_py, recipe, tmp_path) != []
