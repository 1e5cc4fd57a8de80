"""The Lightning data module ``ImageData``: reads, checks and splits a data set and provides its loaders.

``training`` uses it for solo runs, and ``population`` for several runs that it trains together. The whole data set is
one uint8 tensor on the training device. Validation images are taken from the official training set; the official test
set is used for testing only. A chunk is several consecutive mini-batches that Lightning passes to one training_step.
"""

import math
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from digitlab.config.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, checked
from digitlab.core.abilities import abilities
from digitlab.core.fast_import import gc_paused
from digitlab.core.files import expand_home
from digitlab.core.matplotlib_folder import matplotlib_importable
from digitlab.data.augment import Compose
from digitlab.data.checks import check_data_set
from digitlab.data.chunks import ChunkLoader, ChunkPlan, Position
from digitlab.data.deskew import deskew
from digitlab.data.evaluation import EvaluationLoader
from digitlab.data.source import ImageSet, Source
from digitlab.data.splits import split_counts, split_fingerprint, split_indices

# Lightning imports Matplotlib, which needs a writable folder, and the import is faster without garbage collection. It
# may be the first import of Lightning: the parent process of a sweep imports ``data`` without ``training``.
with matplotlib_importable(), gc_paused():
    from lightning.pytorch import LightningDataModule

Batch = TypeVar("Batch")

# Batches of 200 images keep all cores busy, and the feature maps of a CNN need no more memory than in training: 24
# float32 maps of 32 x 32 for each of 200 images are 20 MB, and several layers are in memory at once. With 500 images,
# a run used most memory in validation: 600 MB instead of 480.
EVALUATION_BATCH_SIZE = 200
# For devices that have the memory and compute thousands of images in parallel.
_LARGE_EVALUATION_BATCH_SIZE = 2000


class ImageData(LightningDataModule):
    """A data set with its split into training and validation images.

    ``val_size`` and ``train_size`` are counts or fractions; ``train_size`` is taken from the images that validation
    leaves (null: all of them). ``split_seed`` alone decides the random order of the images. With ``folds``, the
    validation set is part ``fold`` (from 0) of that many equal parts. If the data set comes with validation images
    (``Source.val_count``), ``val_size`` has no effect. ``deskew`` removes the slant of the figures in all images.
    ``normalize=standard`` subtracts the mean of the training split and divides by its standard deviation, for each
    channel; ``unit`` keeps pixels in [0, 1]. ``root`` is the folder with data sets.

    Raises:
        DataError: files are missing or damaged, or the data set cannot be trained on (``checks``).
        ConfigError: a size does not fit the data set.
    """

    @checked
    def __init__(
        self,
        *,
        source: Source,
        root: str,
        batch_size: PositiveInt,
        val_size: NonNegativeInt | Fraction,
        train_size: PositiveInt | PositiveFloat | None,
        split_seed: NonNegativeInt,
        normalize: Literal["standard", "unit"],
        folds: PositiveInt | None = None,
        fold: NonNegativeInt = 0,
        deskew: bool = False,
    ) -> None:
        super().__init__()
        self.source = source
        self.root = expand_home(root)
        self.batch_size = batch_size
        self.val_size, self.train_size, self.split_seed = val_size, train_size, split_seed
        self.folds, self.fold = folds, fold
        self.deskew = deskew
        self.normalize = normalize
        self.set_limits()
        self.set_augmentation(Compose([]))

    def set_augmentation(self, augment: Compose) -> None:
        """Change each mini-batch of training images by ``augment``; without this call they stay as they are.

        Neither this nor the limits are arguments of the constructor, so that classes of users need not pass them on.
        """
        self.augment = augment

    def set_limits(
        self,
        *,
        overfit_batches: int | None = None,
        limit_val_batches: int | None = None,
        limit_test_batches: int | None = None,
    ) -> None:
        """Use only this many mini-batches (None: all of them); call it before ``setup``.

        With ``overfit_batches``, training uses that many mini-batches, and validation uses the same images.
        """
        self.overfit_batches = overfit_batches
        self.limit_val_batches, self.limit_test_batches = limit_val_batches, limit_test_batches

    def check_sizes(self) -> None:
        """Check that the split is possible, without reading any image.

        Raises:
            ConfigError: ``val_size``, ``train_size``, ``folds`` or ``fold`` does not fit the number of training images.
        """
        val_count = self.source.val_count
        split_counts(
            self.source.train_count - (val_count or 0),
            classes=len(self.source.class_names),
            val_size=self.val_size if val_count is None else 0,
            train_size=self.train_size,
            folds=self.folds,
            fold=self.fold,
        )

    def prepare_data(self) -> None:
        """Make sure that the files of the data set are on this machine (``Source.prepare``)."""
        self.source.prepare(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the data set; later calls do nothing.

        The images stay on the CPU until ``to`` is called.
        """
        if hasattr(self, "train_set"):
            return
        self.train_set, self.test_set = self.source.read(self.root)
        check_data_set(
            self.train_set, self.test_set, title=self.source.title, class_names=self.source.class_names,
            image_shape=self.source.image_shape,
        )  # fmt: skip
        if self.deskew:
            self.train_set, self.test_set = (
                ImageSet(deskew(images.images), images.labels) for images in (self.train_set, self.test_set)
            )
        self.train_indices, self.val_indices = self._split()
        self.split_fingerprint = split_fingerprint(self.train_indices, self.val_indices)
        if self.overfit_batches is not None:
            self.train_indices = self.train_indices[: self.overfit_batches * self.batch_size]
            self.val_indices = self.train_indices
        channels = self.source.image_shape[0]
        # What normalisation subtracts from pixels in [0, 1] and divides them by, for each channel. These values, for
        # normalize=unit, leave the pixels as they are.
        self.mean, self.std = [0.0] * channels, [1.0] * channels
        if self.normalize == "standard":
            self.mean, self.std = self.pixel_statistics()

    def _split(self) -> tuple[Tensor, Tensor]:
        """Return the indices of training and validation images, int64 and ascending."""
        labels, val_count = self.train_set.labels, self.source.val_count
        # If the data set comes with validation images, they are the last ones, and only the others are split.
        split_count = len(labels) - (val_count or 0)
        train, val = split_indices(
            labels[:split_count], val_size=self.val_size if val_count is None else 0, train_size=self.train_size,
            split_seed=self.split_seed, folds=self.folds, fold=self.fold,
        )  # fmt: skip
        return train, val if val_count is None else torch.arange(split_count, len(labels))

    @property
    def train_counts(self) -> list[int]:
        """The number of images of each class in the training split."""
        labels = self.train_set.labels[self.train_indices]
        counts: list[int] = torch.bincount(labels, minlength=len(self.source.class_names)).tolist()
        return counts

    @property
    def fingerprint(self) -> str | None:
        """Identifies the content of the files that were read, not the split; None for published data sets."""
        return self.source.fingerprint

    def release(self) -> None:
        """Free the images of a finished run; ``setup`` can read them again.

        The data modules of all runs of a sweep can exist until the sweep ends, so their images would fill the memory.
        """
        if hasattr(self, "train_set"):
            del self.train_set, self.test_set

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel over the training split, for pixels in [0, 1].

        The standard deviation of a constant channel is given as 1, so that normalisation does not divide by zero.
        ``setup`` must have been called.
        """
        channels = self.source.image_shape[0]
        # Counts of the 256 pixel values are exact for any number of images; a float sum over 40 million pixels is not.
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        for index in self.train_indices.split(EVALUATION_BATCH_SIZE):
            pixels = self.train_set.images[index].transpose(0, 1).flatten(1)  # (C, all pixels of these images)
            counts += torch.stack([torch.bincount(channel, minlength=256) for channel in pixels])
        shares = counts.double() / counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(1)
        return mean.tolist(), [math.sqrt(v) if v > 0 else 1.0 for v in variance.tolist()]

    def to(self, device: torch.device) -> None:
        """Move the images to ``device``; loaders then pick mini-batches there by index."""
        for name in ("train_set", "test_set"):
            images: ImageSet = getattr(self, name)
            if images.images.device != device:
                setattr(self, name, ImageSet(images.images.to(device), images.labels.to(device)))
        self.train_indices, self.val_indices = self.train_indices.to(device), self.val_indices.to(device)

    def chunks(self, plan: ChunkPlan, position: Position) -> ChunkLoader:
        """Return the loader of the training split, which cuts epochs into chunks as ``plan`` says.

        Each iteration over it yields the rest of the epoch from the current ``position``.
        """
        return ChunkLoader(
            images=self.train_set, indices=self.train_indices, augment=self.augment,
            classes=len(self.source.class_names), plan=plan, position=position,
        )  # fmt: skip

    def train_dataloader(self) -> ChunkLoader:
        assert self.trainer is not None
        self.to(self.trainer.strategy.root_device)
        # A ``TrainingPlan``, which has a ``ChunkPlan`` and a ``Position``. Its class belongs to a higher layer, which
        # this layer must not import.
        training_plan: Any = self.trainer.lightning_module.plan
        return self.chunks(training_plan.chunks, training_plan.position)

    def val_dataloader(self) -> EvaluationLoader:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> EvaluationLoader:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: Literal["val", "test"]) -> EvaluationLoader:
        """Return the loader of a split in its fixed order, on the device of the trainer if there is one."""
        if self.trainer is not None:
            self.to(self.trainer.strategy.root_device)

        def images() -> ImageSet:
            return self.test_set if split == "test" else self.train_set

        labels = images().labels
        indices = self.val_indices if split == "val" else torch.arange(len(labels), device=labels.device)
        limit = self.limit_test_batches if split == "test" else self.limit_val_batches
        indices = indices[: None if limit is None else limit * self.batch_size]
        # A population, which has no trainer, trains many networks at once, and needs memory for the activations of all.
        single_run = self.trainer is not None
        large_batches = single_run and abilities(labels.device).large_batches
        batch_size = _LARGE_EVALUATION_BATCH_SIZE if large_batches else EVALUATION_BATCH_SIZE
        return EvaluationLoader(images=images, indices=indices, batch_size=batch_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # The images are on the training device already.
        return batch
