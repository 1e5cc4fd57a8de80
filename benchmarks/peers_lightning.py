"""A peer: the same networks as usually written in Lightning: a DataLoader with workers over torchvision's transforms.

``python benchmarks/peers_lightning.py a FOLDER`` runs workload (a) as a whole command with the data sets in FOLDER.
"""

import os
import sys
import tempfile
import time
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, transforms

from bare import network
from workloads import CLASSES, Workload, training_split, workload_by_key

_DATASETS = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}


class UsualModule(L.LightningModule):
    """Leaves the updates to Lightning (automatic optimisation), and logs each metric in each mini-batch."""

    def __init__(self, workload: Workload, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.workload = workload
        self.model = network(workload, image_shape)
        if workload.hidden:
            self.model.insert(0, nn.Flatten())
        self.train_accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.val_accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, K)."""
        logits: Tensor = self.model(images)
        return logits

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.workload.loss == "mse":
            return F.mse_loss(logits.sigmoid(), F.one_hot(labels, CLASSES).float())
        return F.cross_entropy(logits, labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self._loss(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.val_accuracy(logits, labels)
        self.log("val/loss", self._loss(logits, labels))
        self.log("val/accuracy", self.val_accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.workload.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=self.workload.learning_rate)
        return torch.optim.SGD(self.parameters(), lr=self.workload.learning_rate)


class TrainingClock(L.Callback):
    """Measures the seconds from the start of each epoch to the end of its last mini-batch, without validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started_at = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        if trainer.is_last_batch:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.started_at)


class UsualLightning:
    """Trains for two epochs per round and does not count the first one, which starts the workers."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device, self.split = workload, device, training_split(workload)

    def epoch_seconds(self) -> list[float]:
        from digitlab.core.logging import quiet_libraries
        from digitlab.engine.device import float32_products

        split = self.split
        dataset = _dataset(self.workload, split.root, split.mean, split.std)
        loaders = _loaders(dataset, self.workload.batch_size, split.train_indices, split.val_indices)
        with quiet_libraries(), float32_products(torch.device(self.device), 32):
            return fit(self.workload, loaders, epochs=2, device=self.device)[1:]


def fit(
    workload: Workload, loaders: tuple[DataLoader[Any], DataLoader[Any]], *, epochs: int, device: str
) -> list[float]:
    """Train with a new Trainer for ``epochs`` epochs; return the seconds of each."""
    clock = TrainingClock()
    image_shape = tuple(loaders[0].dataset[0][0].shape)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator=device, devices=1, max_epochs=epochs, default_root_dir=folder,
            logger=[TensorBoardLogger(folder), CSVLogger(folder)],
            callbacks=[
                clock,
                ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True),
                EarlyStopping(monitor="val/accuracy", mode="max", patience=5),
            ],
            # Its progress bar would fill the benchmark's output.
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(UsualModule(workload, image_shape), *loaders)
    return clock.seconds


def _dataset(workload: Workload, root: str, mean: list[float], std: list[float]) -> Dataset[Any]:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    dataset: Dataset[Any] = _DATASETS[workload.data](root, train=True, transform=transform, download=True)
    return dataset


def _loaders(
    dataset: Dataset[Any], batch_size: int, train_indices: Tensor, val_indices: Tensor
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    workers = min(4, os.cpu_count() or 1)

    def loader(indices: Tensor, *, shuffle: bool) -> DataLoader[Any]:
        subset: Dataset[Any] = Subset(dataset, indices.tolist())
        return DataLoader(subset, batch_size=batch_size, shuffle=shuffle, num_workers=workers, persistent_workers=True)

    return loader(train_indices, shuffle=True), loader(val_indices, shuffle=False)


def main(key: str, root: str) -> None:
    """Train workload ``key``, which must use MNIST.

    It splits and normalises the images itself, because a usual program would not import digitlab for that.
    """
    workload = workload_by_key(key)
    train_indices, val_indices = torch.randperm(60_000).split((55_000, 5_000))
    # The mean and the standard deviation of the pixels of MNIST.
    dataset = _dataset(workload, root, [0.1307], [0.3081])
    fit(workload, _loaders(dataset, workload.batch_size, train_indices, val_indices), epochs=2, device="auto")


if __name__ == "__main__":
    main(*sys.argv[1:])
