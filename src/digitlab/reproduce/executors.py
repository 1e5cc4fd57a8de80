"""Trains a run of the comparison without Lightning: in NumPy, with the standard library, or as boosted trees.

``reproduce.runner`` uses it for rows whose ``executor`` is not ``lightning``. Data and split come from the same
configuration as for Lightning, and in NumPy also the initial weights and the order of the images. Shapes: N images of D
pixels, K classes.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from digitlab.config.compose import build
from digitlab.data.chunks import ChunkPlan, Position
from digitlab.data.module import ImageData
from digitlab.data.seeding import stream_seed
from digitlab.data.source import ImageSet
from digitlab.data.sources import MnistSource
from digitlab.engine.metrics import Counts
from digitlab.optim.losses import CrossEntropy, Loss, MeanSquaredError
from digitlab.reproduce.scratch import pure
from digitlab.reproduce.scratch.network import Activation, Dense, Network, train
from digitlab.results.checkpoint_name import CheckpointName
from digitlab.results.folder import RunFolder
from digitlab.results.result import CheckpointMetrics, Tested, run_result
from digitlab.results.writer import RunWriter
from digitlab.training.experiment import Experiment

# The default of xgboost's class ``XGBClassifier``. Its function ``train`` has another default.
_BOOSTING_ROUNDS = 100

Metrics = dict[str, float]
Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of one executor: metrics by name (``test/…``), and the other numbers for ``result.json``.

    The metrics belong to the weights of ``checkpoint``: the last ones, or those with the best validation, in
    ``best_epoch``. ``images`` counts the training images, once in each epoch; ``confusion`` is int64 (K, K), on the
    test set.
    """

    metrics: Metrics
    confusion: Tensor
    train_seconds: float
    parameters: int | None
    epochs: int
    images: int
    checkpoint: CheckpointName = "last"
    best_epoch: int | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the weights that were tested, counted from 1."""
        return self.epochs if self.best_epoch is None else self.best_epoch


def run_numpy(config: DictConfig, experiment: Experiment, data: ImageData, *, test_curve: bool) -> Trained:
    """Train the dense network of ``config`` in NumPy and test the last epoch.

    With ``test_curve``, the network is also evaluated on the test set after every mini-batch, and the maximum is
    reported, as in R1.
    """
    network = _numpy_network(experiment, data)
    # The loader of a Lightning run gives the indices of the same mini-batches.
    plan = ChunkPlan(
        seed=experiment.options.seed, batch_size=data.batch_size, chunk_length=None,
        limit_train_batches=experiment.trainer.limit_train_batches,
    )  # fmt: skip
    loader = data.chunks(plan, Position())
    images, labels = _flat(data.train_set)
    curve = _TestCurve(*_flat(data.test_set)) if test_curve else None
    seconds = 0.0
    for epoch in range(experiment.trainer.max_epochs):
        for index in loader.batches(epoch):
            started = time.perf_counter()
            train(network, images, labels, batches=[index.numpy()], lr=config.optimizer.lr)
            seconds += time.perf_counter() - started
            if curve is not None:
                curve.evaluate(network)
    outputs = torch.from_numpy(network(_flat(data.test_set)[0]))
    metrics, confusion = _test_metrics(outputs, data, loss=network.cost(*_flat(data.test_set)))
    return Trained(
        metrics=metrics | ({} if curve is None else curve.metrics()),
        confusion=confusion,
        train_seconds=seconds,
        parameters=sum(layer.weights.size + layer.bias.size for layer in network.layers),
        epochs=experiment.trainer.max_epochs,
        images=experiment.trainer.max_epochs * sum(len(index) for index in loader.batches(0)),
    )


class _TestCurve:
    """Accuracy and loss on the test set after every mini-batch, for the row that repeats R1's test curve."""

    def __init__(self, images: Floats, labels: Ints) -> None:
        self.images, self.labels = images, labels
        self.accuracies: list[float] = []
        self.losses: list[float] = []

    def evaluate(self, network: Network) -> None:
        """Add the accuracy and loss of the network after one more mini-batch."""
        outputs = network(self.images)
        self.accuracies.append(float(np.mean(outputs.argmax(axis=1) == self.labels)))
        self.losses.append(network.cost_of(outputs, self.labels))

    def metrics(self) -> Metrics:
        """Return the best accuracy and loss on the curve, and numbers of steps for two findings of R1.

        ``test/steps_between_bests`` is the distance between the steps with the highest accuracy and the lowest loss.
        ``test/steps_to_loss_0.05`` is the first step with a loss below 0.05, counted from 1; nan if there is none.
        """
        best, lowest = int(np.argmax(self.accuracies)), int(np.argmin(self.losses))
        steps_below = [step for step, loss in enumerate(self.losses, start=1) if loss < 0.05]
        return {
            "test/accuracy_max": self.accuracies[best],
            "test/loss_at_accuracy_max": self.losses[best],
            "test/loss_min": self.losses[lowest],
            "test/steps_between_bests": float(abs(best - lowest)),
            "test/steps_to_loss_0.05": float(steps_below[0]) if steps_below else math.nan,
        }


def _numpy_network(experiment: Experiment, data: ImageData) -> Network:
    """Return the NumPy network with the initial weights that a Lightning run of the same seed starts with."""
    torch.manual_seed(stream_seed("init", experiment.options.seed))
    source = data.source
    model, loss = experiment.hyper_parameters["model"], experiment.parts.loss
    network = build(model, "model", nn.Module, image_shape=source.image_shape, classes=len(source.class_names))
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    activation = model.get("activation", "relu")
    hidden_activations = activation if isinstance(activation, list) else [activation] * (len(layers) - 1)
    activations = [*hidden_activations, _output_activation(loss)]
    return Network(
        [
            Dense(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy(), name)
            for layer, name in zip(layers, activations, strict=True)
        ],
        loss="cross_entropy" if isinstance(loss, CrossEntropy) else "mse",
    )


def _output_activation(loss: Loss) -> Activation:
    """Return the activation of the last layer, which in PyTorch is a part of the loss."""
    if isinstance(loss, MeanSquaredError):
        return "linear" if loss.output == "raw" else loss.output
    return "softmax"


def run_pure(config: DictConfig, experiment: Experiment, data: ImageData) -> Trained:
    """Train R1's network with the standard library and test the layer with the best validation accuracy.

    The layer is validated only after every 50 mini-batches, because a validation takes longer than 50 mini-batches.
    """
    folder, limits = MnistSource().folders(data.root)[0], experiment.trainer
    training = _digits(folder, "train", _limited(data.train_indices, limits.limit_train_batches, data))
    validation = _digits(folder, "train", _limited(data.val_indices, limits.limit_val_batches, data))
    learnt = pure.learn(
        training, validation, epochs=limits.max_epochs, batch_size=data.batch_size, step_size=config.optimizer.lr,
        seed=experiment.options.seed, evaluate_every=50,
    )  # fmt: skip
    testing = _digits(folder, "t10k", torch.arange(len(data.test_set.labels)))
    outputs = torch.tensor([pure.predict(learnt.layer, digit) for digit in testing])
    metrics, confusion = _test_metrics(outputs, data, loss=pure.evaluate(learnt.layer, testing).cost)
    steps_per_epoch = math.ceil(len(training) / data.batch_size)
    return Trained(
        metrics={"val/accuracy": learnt.best.accuracy, "val/loss": learnt.best.cost} | metrics,
        confusion=confusion,
        train_seconds=learnt.update_seconds,
        parameters=pure.CLASSES * (pure.PIXELS + 1),
        epochs=limits.max_epochs,
        images=limits.max_epochs * len(training),
        checkpoint="best",
        best_epoch=math.ceil(learnt.best.step / steps_per_epoch),
    )


def _digits(folder: Path, part: str, indices: Tensor) -> list[pure.Digit]:
    """Read the images at ``indices`` (N,) from the MNIST files in ``folder``; ``part`` is ``train`` or ``t10k``."""
    images = pure.read_images(folder / f"{part}-images-idx3-ubyte.gz")
    labels = pure.read_labels(folder / f"{part}-labels-idx1-ubyte.gz")
    return [pure.normalise(images[index], labels[index]) for index in indices.tolist()]


def run_xgboost(experiment: Experiment, data: ImageData) -> Trained:
    """Fit boosted trees (Chen and Guestrin, 2016) with default settings to flat images in [0, 1]."""
    import xgboost

    images, labels = _flat(data.train_set)
    index = _limited(data.train_indices, experiment.trainer.limit_train_batches, data).numpy()
    classes = len(data.source.class_names)
    settings = {"objective": "multi:softmax", "num_class": classes}
    started = time.perf_counter()
    training = xgboost.DMatrix(images[index], labels[index])
    trees = xgboost.train(settings, training, num_boost_round=_BOOSTING_ROUNDS)
    seconds = time.perf_counter() - started
    predicted = torch.from_numpy(trees.predict(xgboost.DMatrix(_flat(data.test_set)[0]))).long()
    # These trees predict a class and no probabilities, so there is no loss.
    metrics, confusion = _test_metrics(F.one_hot(predicted, classes).double(), data, loss=math.nan)
    return Trained(
        metrics=metrics, confusion=confusion, train_seconds=seconds, parameters=None,
        # A round of boosting counts as an epoch, but images per second count each image once.
        epochs=trees.num_boosted_rounds(), images=len(index),
    )  # fmt: skip


def _limited(indices: Tensor, batches: int | None, data: ImageData) -> Tensor:
    """Return the indices of the first ``batches`` mini-batches, or all if that is None."""
    return indices if batches is None else indices[: batches * data.batch_size]


def _flat(images: ImageSet) -> tuple[Floats, Ints]:
    """Return flat images (N, D), float32 in [0, 1], and labels (N,)."""
    return (images.images.flatten(1).float() / 255).numpy(), images.labels.numpy()


def _test_metrics(outputs: Tensor, data: ImageData, *, loss: float) -> tuple[Metrics, Tensor]:
    """Return metrics named ``test/…`` of the outputs (N, K) on the test set, and the confusion matrix, int64 (K, K)."""
    counts = Counts.zeros(outputs.shape[1], torch.device("cpu"))
    counts.add(outputs, data.test_set.labels)
    metrics = counts.metrics() | {"loss": loss}
    return {f"test/{name}": value for name, value in metrics.items()}, counts.confusion


def write(folder: RunFolder, config: DictConfig, data: ImageData, trained: Trained, *, command: str) -> None:
    """Write the folder of a run without Lightning: ``result.json`` with the usual keys, and TensorBoard events."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    writer = RunWriter(folder, config={str(key): value for key, value in container.items()})
    writer.confusion(trained.confusion, data.source.class_names)
    result = run_result(
        status="finished",
        measured=CheckpointMetrics(Tested(trained.checkpoint, trained.epoch), trained.metrics),
        best_epoch=trained.epoch,
        epochs=trained.epochs,
        train_seconds=trained.train_seconds,
        images_per_second=trained.images / trained.train_seconds,
        parameters=trained.parameters,
        seed=config.seed,
        split_fingerprint=data.split_fingerprint,
        overrides=folder.read_overrides(),
        command=command,
        device=torch.device("cpu"),
    )
    writer.result(result)
    writer.close()
