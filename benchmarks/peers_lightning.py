"""Reference row: the same networks the usual Lightning way, a DataLoader with workers over torchvision's transforms.

Runs in a process of its own (see ``bench.py``). The first epoch starts the workers and is not counted.
"""

import os
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
from digitlab.training.surroundings import quiet_libraries
from workloads import CLASSES, TrainingSplit, Workload, training_split

EPOCHS = 2
_DATASETS = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}


class UsualModule(L.LightningModule):
    """Automatic optimisation, one ``self.log`` a metric a mini-batch."""

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
    """Seconds from the start of each epoch to the end of its last mini-batch: validation comes after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started_at = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        if trainer.is_last_batch:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.started_at)


def epoch_seconds(workload: Workload, device: str) -> list[float]:
    """Seconds of each epoch but the first; ``device`` is ``cpu`` or ``cuda``."""
    split = training_split(workload)
    loaders = _loaders(workload, split)
    clock = TrainingClock()
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        trainer = L.Trainer(
            accelerator=device, devices=1, max_epochs=EPOCHS, default_root_dir=folder,
            logger=[TensorBoardLogger(folder), CSVLogger(folder)],
            callbacks=[
                clock,
                ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True),
                EarlyStopping(monitor="val/accuracy", mode="max", patience=5),
            ],
            # Spares it the bar, which would fill the benchmark's output.
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(UsualModule(workload, tuple(split.images.shape[1:])), *loaders)
    return clock.seconds[1:]


def _loaders(workload: Workload, split: TrainingSplit) -> tuple[DataLoader[Any], DataLoader[Any]]:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(split.mean, split.std)])
    dataset = _DATASETS[workload.data](split.root, train=True, transform=transform, download=True)
    workers = min(4, os.cpu_count() or 1)

    def loader(indices: Tensor, *, shuffle: bool) -> DataLoader[Any]:
        subset: Dataset[Any] = Subset(dataset, indices.tolist())
        return DataLoader(
            subset, batch_size=workload.batch_size, shuffle=shuffle, num_workers=workers, persistent_workers=True
        )

    return loader(split.train_indices, shuffle=True), loader(split.val_indices, shuffle=False)
