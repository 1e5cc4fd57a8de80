"""The Lightning data module: one source's images on the training device, split, and handed out as chunks.

The whole set is one uint8 tensor; validation is carved out of the official training set, and the official test set is
left alone.
"""

import math
from pathlib import Path
from typing import Literal, TypeVar

import torch
from lightning.pytorch import LightningDataModule

from digitlab.config.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, checked
from digitlab.core.abilities import abilities
from digitlab.data.augment import Compose
from digitlab.data.chunks import ChunkLoader, ChunkPlan, EvaluationLoader, Position
from digitlab.data.deskew import deskew
from digitlab.data.source import ImageSet, Source
from digitlab.data.splits import fingerprint, split_counts, split_indices

Batch = TypeVar("Batch")

# Large enough to keep every core busy, small enough that a CNN's feature maps take no more memory than its training
# does: 200 of 24 x 32 x 32 are 20 MB, and several are held. At 500 validation was the peak, 600 MB instead of 480.
EVALUATION_BATCH_SIZE = 200
# There is memory for more, and an image takes as long as a thousand where they fill a device.
_LARGE_EVALUATION_BATCH_SIZE = 2000


class ImageData(LightningDataModule):
    """One data set with its split.

    ``val_size`` and ``train_size`` are counts or fractions; ``train_size`` limits what is left after validation (null:
    all). ``split_seed`` alone decides who lands where; with ``folds``, validation is their part number ``fold``.
    ``deskew`` sets slanted figures of all images upright. ``normalize=standard`` subtracts the training split's mean
    and divides by its standard deviation, a channel each; ``unit`` leaves pixels in [0, 1].

    Raises ``DataError`` where files are missing or damaged, ``ConfigError`` where a size does not fit.
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
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.val_size, self.train_size, self.split_seed = val_size, train_size, split_seed
        self.folds, self.fold = folds, fold
        self.deskew = deskew
        self.normalize = normalize
        # What a run adds before it starts: how epochs are cut, and what is done to the images of a batch.
        self.plan: ChunkPlan | None = None
        self.augment = Compose([])
        self.overfit_batches: int | None = None
        self.limit_val_batches: int | None = None
        self.limit_test_batches: int | None = None

    def check_sizes(self) -> None:
        """Whether the split can be made of the images that the source says it has; no file of images is read.

        Raises ``ConfigError`` where it can't.
        """
        split_counts(
            self.source.train_count,
            classes=len(self.source.class_names),
            val_size=self.val_size,
            train_size=self.train_size,
            folds=self.folds,
            fold=self.fold,
        )

    def prepare_data(self) -> None:
        self.source.prepare(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read and split the set, once; the images stay on the CPU until a loader is asked for."""
        if hasattr(self, "train_set"):
            return
        self.train_set, self.test_set = self.source.read(self.root)
        if self.deskew:
            self.train_set, self.test_set = (
                ImageSet(deskew(images.images), images.labels) for images in (self.train_set, self.test_set)
            )
        self.train_indices, self.val_indices = split_indices(
            self.train_set.labels, val_size=self.val_size, train_size=self.train_size, split_seed=self.split_seed,
            folds=self.folds, fold=self.fold,
        )  # fmt: skip
        self.split_fingerprint = fingerprint(self.train_indices, self.val_indices)
        if self.overfit_batches is not None:
            self.train_indices = self.train_indices[: self.overfit_batches * self.batch_size]
            self.val_indices = self.train_indices
        self.mean, self.std = self._mean_and_std()

    def release(self) -> None:
        """Let go of the images, which a finished run would hold to the end of its sweep; ``setup`` reads them again."""
        if hasattr(self, "train_set"):
            del self.train_set, self.test_set

    def _mean_and_std(self) -> tuple[list[float], list[float]]:
        """Of each channel over the training split, pixels in [0, 1]; a channel that never varies keeps a std of 1."""
        channels = self.source.image_shape[0]
        if self.normalize == "unit":
            return [0.0] * channels, [1.0] * channels
        # Counts of the 256 values are exact at any size, where a float sum over 40 million pixels is not.
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        for index in self.train_indices.split(EVALUATION_BATCH_SIZE):
            pixels = self.train_set.images[index].transpose(0, 1).flatten(1)
            counts += torch.stack([torch.bincount(channel, minlength=256) for channel in pixels])
        weights = counts.double() / counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = weights @ values
        variance = (weights * (values - mean[:, None]) ** 2).sum(1)
        return mean.tolist(), [math.sqrt(v) if v > 0 else 1.0 for v in variance.tolist()]

    def to(self, device: torch.device) -> None:
        """Move the images to ``device``; batches are indices into them from then on."""
        for name in ("train_set", "test_set"):
            images: ImageSet = getattr(self, name)
            if images.images.device != device:
                setattr(self, name, ImageSet(images.images.to(device), images.labels.to(device)))
        self.train_indices, self.val_indices = self.train_indices.to(device), self.val_indices.to(device)

    def chunks(self, plan: ChunkPlan, position: Position) -> ChunkLoader:
        """The training split as chunks, starting each time from where ``position`` stands."""
        return ChunkLoader(
            images=self.train_set, indices=self.train_indices, augment=self.augment,
            classes=len(self.source.class_names), plan=plan, position=position,
        )  # fmt: skip

    def train_dataloader(self) -> ChunkLoader:
        assert self.trainer is not None
        assert self.plan is not None
        self.to(self.trainer.strategy.root_device)
        position = self.trainer.lightning_module.position
        assert isinstance(position, Position)
        return self.chunks(self.plan, position)

    def val_dataloader(self) -> EvaluationLoader:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> EvaluationLoader:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: Literal["val", "test"]) -> EvaluationLoader:
        """The images of a split in their given order, on the device of the trainer, if there is one."""
        if self.trainer is not None:
            self.to(self.trainer.strategy.root_device)

        def images() -> ImageSet:
            return self.test_set if split == "test" else self.train_set

        labels = images().labels
        indices = self.val_indices if split == "val" else torch.arange(len(labels), device=labels.device)
        limit = self.limit_test_batches if split == "test" else self.limit_val_batches
        indices = indices[: None if limit is None else limit * self.batch_size]
        alone = self.trainer is not None  # the members of a population have their activations beside each other
        large = alone and abilities(labels.device).large_batches
        batch_size = _LARGE_EVALUATION_BATCH_SIZE if large else EVALUATION_BATCH_SIZE
        return EvaluationLoader(images=images, indices=indices, batch_size=batch_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # The images live where they are trained on.
        return batch
