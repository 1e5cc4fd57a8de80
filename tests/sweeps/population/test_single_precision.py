"""In float32 a member and its solo run add up in different orders: what still has to agree, and how closely."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from digitlab.config.compose import compose
from digitlab.engine.stacked_runner import Learner
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier
from digitlab.training.experiment import Experiment
from digitlab.training.setup import initial_classifier, read_data

_SINGLE = ("trainer.precision=32", "optimizer=sgd", "data.batch_size=30")
_RELATIVE = 1e-5


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(folder.last)["state_dict"]
    return weights


def _seeded(seed: int, *overrides: str) -> tuple[Classifier, Tensor, Tensor]:
    """The classifier of a seed in training, and pixels and labels of 30 images of its own."""
    typed = [*overrides, f"seed={seed}", "trainer=cpu", "data.train_size=100", "data.val_size=50"]
    experiment = Experiment.from_config(compose(typed), typed=typed)
    data = read_data(experiment)
    index = data.train_indices[30 * seed : 30 * seed + 30]
    classifier = initial_classifier(experiment, data)
    classifier.steps_per_epoch = classifier.total_steps = 3
    return classifier.train(), data.train_set.images[index], data.train_set.labels[index]


# Not by what a step changes in the weights: their own last digits would hide the smaller gradients.
@pytest.mark.parametrize(
    "model", [["model=linear"], ["model=mlp"], ["model=mlp", "model.batch_norm=true"], ["model=lenet"], ["model=cnn"]]
)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_gradients_of_one_step_agree(model: list[str], loss: str) -> None:
    dropout = [] if model == ["model=linear"] else ["model.dropout=0"]
    runs = [_seeded(seed, *model, *dropout, f"loss={loss}") for seed in (0, 1)]
    classifiers = [classifier for classifier, _, _ in runs]
    images = [classifier.normalise(pixels) for classifier, pixels, _ in runs]
    targets = [classifier.loss.encode(labels, 10) for classifier, _, labels in runs]
    solo = []
    learner = Learner([each.member_spec() for each in classifiers], device=torch.device("cpu"))
    for classifier, own, wanted in zip(classifiers, images, targets, strict=True):
        value = classifier.loss(classifier.network(own), wanted)
        solo.append(torch.autograd.grad(value, list(classifier.network.parameters())))
    outputs = learner.stack.forward(images, ())
    learner.stack.backward(learner.loss.gradient(outputs, torch.stack(targets)))
    for gradient, *theirs in zip(learner.stack.gradients(), *solo, strict=True):
        for own, other in zip(gradient, theirs, strict=True):
            assert other.dtype == torch.float32
            assert (own - other).abs().max() <= _RELATIVE * other.abs().max()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_hundred_steps_of_smooth_networks_agree(
    together: Callable[..., Any], alone: Callable[..., Any], activation: str
) -> None:
    common = [*_SINGLE, f"model.activation={activation}", "model.hidden=[16]", "trainer.max_epochs=20"]
    jobs = [["seed=0"], ["seed=0", "optimizer.lr=0.05"], ["seed=1"]]
    members = together(*jobs, common=common)
    solo = _weights(RunFolder(alone(*common, *jobs[1]).folder))
    for name, weight in _weights(members[1].job.folder).items():
        assert (weight - solo[name]).abs().max() <= _RELATIVE * solo[name].abs().max()


_SEEDS = 20
_TWENTY = (
    "trainer.precision=32", "model.hidden=[16]", "model.activation=relu", "model.dropout=0.2", "optimizer=adam",
    "data.train_size=400", "data.val_size=400", "data.batch_size=20", "trainer.max_epochs=2",
)  # fmt: skip


def test_the_accuracies_of_twenty_seeds_together_and_alone_are_not_distinguishable(
    together: Callable[..., Any], alone: Callable[..., Any]
) -> None:
    seeds = [f"seed={seed}" for seed in range(_SEEDS)]
    jobs = [[f"optimizer.lr={rate}", seed] for rate in (0.003, 0.001) for seed in seeds]
    members = [_accuracy(member.job.folder) for member in together(*jobs, common=_TWENTY)]
    solo = [_accuracy(RunFolder(alone(*_TWENTY, "optimizer.lr=0.003", seed).folder)) for seed in seeds]
    assert _probability(members[:_SEEDS], solo) > 0.05
    # The same test finds out that a learning rate is a third of the other.
    assert _probability(members[_SEEDS:], solo) < 0.01


def _accuracy(run: RunFolder) -> float:
    """On the validation images, after the last epoch."""
    return float(read_checkpoint(run.last)["rows"][-1]["val/accuracy"])


def _probability(ones: list[float], others: list[float]) -> float:
    """That pairs differ by as much in the mean if the signs are by chance (the permutation test of Fisher, 1935)."""
    differences = torch.tensor(ones, dtype=torch.float64) - torch.tensor(others, dtype=torch.float64)
    signs = torch.randint(2, (20_000, len(ones)), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    return float((((signs * differences).mean(1)).abs() >= differences.mean().abs() - 1e-12).double().mean())
