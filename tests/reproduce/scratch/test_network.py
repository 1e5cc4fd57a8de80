"""The NumPy network as a reference: gradients agree with autograd and finite differences, trainings with Lightning."""

import numpy as np
import pytest
import torch

from digitlab.core.errors import ConfigError
from digitlab.core.logging import quiet_libraries
from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Position
from digitlab.optim.losses import CrossEntropy, MeanSquaredError
from digitlab.reproduce.scratch.network import Dense, Network, glorot, gradient_check, train
from digitlab.results.folder import RunFolder
from digitlab.training.run import Run

OUTPUTS = {("mse", "linear"): "raw", ("mse", "sigmoid"): "sigmoid", ("mse", "softmax"): "softmax"}
SHAPES = [[6, 4], [6, 5, 4], [6, 5, 3, 4]]
HIDDEN = ["relu", "tanh", "sigmoid"]
CASES = [
    (units, hidden, output, loss)
    for units in SHAPES
    for hidden in HIDDEN
    for output, loss in [("linear", "mse"), ("sigmoid", "mse"), ("softmax", "mse"), ("softmax", "cross_entropy")]
]


def some_images(count=7, pixels=6, classes=4):
    random = np.random.default_rng(3)
    return random.uniform(size=(count, pixels)), random.integers(classes, size=count)


def network(units, hidden, output, loss):
    layers = glorot(units, [hidden] * (len(units) - 2) + [output], seed=1)
    for layer in layers:
        layer.bias += np.linspace(-0.3, 0.3, len(layer.bias))
    return Network(layers, loss=loss)


@pytest.mark.parametrize(("units", "hidden", "output", "loss"), CASES)
def test_gradients_equal_finite_differences(units, hidden, output, loss):
    assert gradient_check(network(units, hidden, output, loss), *some_images()) < 1e-6


def test_the_gradient_check_finds_a_wrong_gradient(monkeypatch):
    wrong = network([6, 5, 4], "tanh", "softmax", "cross_entropy")
    right = wrong.gradients(*some_images())
    right[0].weights[2, 1] *= 1.0001
    monkeypatch.setattr(wrong, "gradients", lambda images, labels: right)
    assert gradient_check(wrong, *some_images()) > 1e-6


@pytest.mark.numerics
@pytest.mark.parametrize(("units", "hidden", "output", "loss"), CASES)
def test_gradients_equal_those_of_autograd(units, hidden, output, loss):
    ours = network(units, hidden, output, loss)
    images, labels = some_images()
    leaves = [[torch.tensor(each, requires_grad=True) for each in (layer.weights, layer.bias)] for layer in ours.layers]
    values = torch.from_numpy(images)
    for (weights, bias), layer in zip(leaves, ours.layers, strict=True):
        values = values @ weights + bias
        if layer is not ours.layers[-1]:
            values = getattr(torch, layer.activation)(values)
    theirs = CrossEntropy() if loss == "cross_entropy" else MeanSquaredError(output=OUTPUTS[loss, output])
    cost = theirs(values, theirs.encode(torch.from_numpy(labels), 4))
    cost.backward()
    assert ours.cost(images, labels) == pytest.approx(cost.item(), rel=1e-12)
    for (weights, bias), gradient in zip(leaves, ours.gradients(images, labels), strict=True):
        np.testing.assert_allclose(gradient.weights, weights.grad, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(gradient.bias, bias.grad, rtol=1e-9, atol=1e-15)


RECIPES = {
    "experiment=r2_softmax": ([], "softmax", "cross_entropy", 0.01),
    "experiment=r3_sigmoid30_mse": (["sigmoid"], "sigmoid", "mse", 0.25),
    "experiment=r5_fashion_arch1": (["relu"], "softmax", "cross_entropy", 0.001),
}


def dense_layers(run, activations):
    weights = [tensor.detach().numpy().copy() for tensor in run.classifier.network.parameters()]
    pairs = zip(weights[::2], weights[1::2], activations, strict=True)
    return [Dense(weight.T.copy(), bias, activation) for weight, bias, activation in pairs]


def tensors(layers):
    return [torch.from_numpy(each) for layer in layers for each in (layer.weights, layer.bias)]


@pytest.mark.sample(36)
@pytest.mark.equivalence
@pytest.mark.numerics
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("precision", [64, 32])
def test_fifty_steps_give_the_weights_of_a_lightning_run(shrunk, run_folder, recipe, precision, as_exact_as):
    hidden, output, loss, lr = RECIPES[recipe]
    config = shrunk(
        recipe, "data=mnist", "data.train_size=2000", "data.batch_size=40", "data.val_size=0", "test=none",
        "trainer.max_epochs=1", "trainer.limit_train_batches=50", f"trainer.precision={precision}",
    )  # fmt: skip
    with quiet_libraries():
        run = Run(config, RunFolder(run_folder), overrides=[], stop_signal=StopSignal(), resume=False)
    layers = dense_layers(run, [*hidden, output])
    in_double = [Dense(layer.weights.astype(float), layer.bias.astype(float), layer.activation) for layer in layers]
    ours, exact = Network(layers, loss=loss), Network(in_double, loss=loss)
    batches = run.data.chunks(run.plan.chunks, Position()).batches(0)
    images = run.classifier.normalise(run.data.train_set.images).flatten(1).numpy()
    learning = {"batches": [index.numpy() for index in batches], "lr": lr}
    for each, pixels in ((ours, images), (exact, images.astype(float))):
        train(each, pixels, run.data.train_set.labels.numpy(), **learning)
    with quiet_libraries(), run.result_written():
        run.fit()
    mine, theirs, wanted = map(tensors, (ours.layers, dense_layers(run, [*hidden, output]), exact.layers))
    if precision == 32:
        as_exact_as([theirs], mine, wanted)
    else:
        for value, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(value, other, rtol=0, atol=1e-10 * float(other.abs().max()))


def test_cross_entropy_needs_a_softmax():
    with pytest.raises(ConfigError, match="softmax"):
        network([6, 4], "relu", "sigmoid", "cross_entropy")


def test_no_output_overflows_or_becomes_nan():
    images, _ = some_images()
    for output in ("sigmoid", "softmax"):
        outputs = network([6, 5, 4], "relu", output, "mse")(1e6 * images)
        assert ((outputs >= 0) & (outputs <= 1)).all()
