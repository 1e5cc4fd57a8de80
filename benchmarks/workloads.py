"""The five workloads of the benchmark, which all rows share, and the images they train on.

N images, C channels, height H, width W, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One network, data set and update rule.

    ``hidden`` holds the units of an MLP's hidden layers; empty means LeNet (``conf/model/lenet.yaml``). ``loss=mse``
    compares the sigmoid of the logits with one-hot targets. ``epochs`` is the number of epochs in one round, higher if
    an epoch is short. ``train_size`` limits the training split for a short trial; None uses all of it.
    """

    key: str
    title: str
    data: Literal["mnist", "cifar10"] = "mnist"
    hidden: tuple[int, ...] = ()
    activation: Literal["relu", "sigmoid"] = "relu"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    batch_size: int = 128
    epochs: int
    train_size: int | None = None

    def overrides(self) -> list[str]:
        """Return the workload as command-line overrides of ``train.py``."""
        model = ["model=lenet"]
        if self.hidden:
            model = ["model=mlp", f"model.hidden=[{','.join(map(str, self.hidden))}]"]
        return [
            f"data={self.data}",
            *model,
            f"model.activation={self.activation}",
            f"loss={self.loss}",
            *(["loss.output=sigmoid"] if self.loss == "mse" else []),
            f"optimizer={self.optimizer}",
            f"optimizer.lr={self.learning_rate}",
            f"data.batch_size={self.batch_size}",
            f"trainer.max_epochs={self.epochs}",
            *([f"data.train_size={self.train_size}"] if self.train_size is not None else []),
        ]


WORKLOADS = (
    Workload(key="a", title="MNIST 784-64-64-10, SGD, batch 128", hidden=(64, 64), epochs=6),
    Workload(key="b", title="MNIST LeNet, Adam, batch 128", optimizer="adam", learning_rate=0.001, epochs=3),
    Workload(
        key="c", title="MNIST 784-30-10 sigmoid, MSE, SGD, batch 10", hidden=(30,), activation="sigmoid", loss="mse",
        learning_rate=0.25, batch_size=10, epochs=4,
    ),
    Workload(key="d", title="CIFAR-10 3072-256-10, SGD, batch 128", data="cifar10", hidden=(256,), epochs=4),
    Workload(key="e", title="MNIST 784-500-300-10, SGD, batch 128", hidden=(500, 300), epochs=4),
)  # fmt: skip


def workload_by_key(key: str) -> Workload:
    """Return the workload whose key, a letter from a to e, is ``key``."""
    return next(workload for workload in WORKLOADS if workload.key == key)


def last_of_each_key(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with each key once, with its last value, because Hydra accepts no key twice."""
    return list({override.partition("=")[0]: override for override in overrides}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSplit:
    """The images that digitlab trains on, so that all rows train on the same ones.

    ``pixels`` is uint8 (N, C, H, W). ``images`` is the same as float32, normalised with ``mean`` and ``std`` (one per
    channel, of pixels in [0, 1]). ``labels`` is int64 (N,). ``train_indices`` and ``val_indices`` are positions in the
    official training set; ``root`` is the folder of the data sets.
    """

    pixels: Tensor = field(repr=False)
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: list[float]
    std: list[float]
    train_indices: Tensor = field(repr=False)
    val_indices: Tensor = field(repr=False)
    root: str


def training_split(workload: Workload) -> TrainingSplit:
    """Return the training split of ``workload`` as digitlab reads it. Raises ``DataError`` if the files are missing."""
    # Imported here, because rows that run as a whole command do not need these modules.
    from digitlab.config.compose import compose
    from digitlab.training.experiment import Experiment

    data = Experiment.from_config(compose(workload.overrides()), typed=()).data
    data.prepare_data()
    data.setup()
    pixels = data.train_set.images[data.train_indices]
    images = pixels.float().div_(255)
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        images[:, channel].sub_(mean).div_(std)
    return TrainingSplit(
        pixels=pixels,
        images=images,
        labels=data.train_set.labels[data.train_indices],
        mean=data.mean,
        std=data.std,
        train_indices=data.train_indices,
        val_indices=data.val_indices,
        root=str(data.root),
    )
