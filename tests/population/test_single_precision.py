"""How closely a member and its solo run agree in float32, although they add up in different orders."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from digitlab.config.compose import compose
from digitlab.engine.stacked_runner import StackedRunner
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier
from digitlab.training.experiment import Experiment
from digitlab.training.setup import initial_classifier, read_data
from fixtures.rounding import decides_clearly

_SINGLE = ("optimizer=sgd", "data.batch_size=30")
_IMAGES = 10
_MODELS = (
    ["model=linear"],
    ["model=mlp", "model.dropout=0"],
    ["model=mlp", "model.dropout=0", "model.batch_norm=true"],
    ["model=lenet", "model.dropout=0"],
    ["model=cnn", "model.dropout=0", "model.width=4"],
)


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(folder.last)["state_dict"]
    return weights


def _seeded(seed: int, *overrides: str) -> tuple[Classifier, Tensor, Tensor]:
    """The classifier of a seed in training; random pixels, normalised float32 (n, 1, 28, 28); and encoded targets.

    The images of MNIST have one background: patches of it are tied in a max pool, and each processor breaks ties its
    own way.
    """
    typed = [*overrides, f"seed={seed}", "trainer=cpu", "data.train_size=100", "data.val_size=50"]
    experiment = Experiment.from_config(compose(typed), typed=typed)
    classifier = initial_classifier(experiment, read_data(experiment))
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (_IMAGES,), generator=random)
    while True:
        images = classifier.normalise(torch.randint(256, (_IMAGES, 1, 28, 28), generator=random, dtype=torch.uint8))
        if decides_clearly(classifier.network, images):
            break
    return classifier.train(), images, classifier.loss.encode(labels, 10)


def _solo(classifier: Classifier, images: Tensor, targets: Tensor) -> list[Tensor]:
    """The gradients of a solo run, in the order of the network's parameters and in the dtype of the images."""
    network = copy.deepcopy(classifier.network).to(images.dtype)
    if targets.is_floating_point():
        targets = targets.to(images.dtype)
    loss = classifier.loss(network(images), targets)
    return list(torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.sample(2)
# Not by what a step changes in the weights: their own last digits would hide the smaller gradients.
@pytest.mark.sample(4)
@pytest.mark.numerics
@pytest.mark.parametrize("model", _MODELS, ids=" ".join)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_gradients_of_one_step_are_as_exact_as_those_of_solo_runs(
    as_exact_as: Callable[..., None], model: list[str], loss: str
) -> None:
    runs = [_seeded(seed, *model, f"loss={loss}") for seed in (0, 1)]
    runner = StackedRunner([classifier.member_spec() for classifier, _, _ in runs], device=torch.device("cpu"))
    outputs = runner.stack.forward([images for _, images, _ in runs], ())
    runner.stack.backward(runner.loss.gradient(outputs, torch.stack([targets for _, _, targets in runs])))
    for member, (classifier, images, targets) in enumerate(runs):
        orders = [torch.randperm(_IMAGES, generator=torch.Generator().manual_seed(order)) for order in range(8)]
        solo = [_solo(classifier, images[order], targets[order]) for order in orders]
        found = [gradient[member] for gradient in runner.stack.gradients()]
        exact = _solo(classifier, images.double(), targets)
        as_exact_as(solo, found, exact)
        with pytest.raises(AssertionError):
            as_exact_as(solo, [1.0001 * gradient for gradient in found], exact)


@pytest.mark.extra
@pytest.mark.sample(2)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_hundred_steps_of_smooth_networks_agree(
    together: Callable[..., Any], alone: Callable[..., Any], as_exact_as: Callable[..., None], activation: str
) -> None:
    common = [*_SINGLE, f"model.activation={activation}", "model.hidden=[16]", "trainer.max_epochs=20"]
    jobs = [["seed=0"], ["seed=0", "optimizer.lr=0.05"], ["seed=1"]]
    members = together(*jobs, common=[*common, "trainer.precision=32"])
    single, double = (
        list(_weights(RunFolder(alone(*common, *jobs[1], f"trainer.precision={precision}").folder)).values())
        for precision in (32, 64)
    )
    as_exact_as([single], list(_weights(members[1].job.folder).values()), double)


_SEEDS = 10
_SMALL = (
    "trainer.precision=32", "model.hidden=[16]", "model.activation=relu", "model.dropout=0.2", "optimizer=adam",
    "data.train_size=400", "data.val_size=400", "data.batch_size=20", "trainer.max_epochs=2",
)  # fmt: skip


@pytest.mark.extra
def test_accuracies_of_ten_seeds_in_a_population_and_alone_are_indistinguishable(
    together: Callable[..., Any], alone: Callable[..., Any]
) -> None:
    seeds = [f"seed={seed}" for seed in range(_SEEDS)]
    jobs = [[f"optimizer.lr={rate}", seed] for rate in (0.003, 0.001) for seed in seeds]
    members = [_accuracy(member.job.folder) for member in together(*jobs, common=_SMALL)]
    solo = [_accuracy(RunFolder(alone(*_SMALL, "optimizer.lr=0.003", seed).folder)) for seed in seeds]
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
