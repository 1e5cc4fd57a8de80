"""Measures a trained network on images unlike its training images: corrupted images, and images of no known class.

``digitlab evaluate --corrupt`` and ``--out-of-distribution`` use it. The metrics are those of
``digitlab.training.evaluation``. Shapes: N images, C channels, H rows, W columns, K classes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningDataModule
from torch import Generator, Tensor
from torchmetrics.functional.classification import binary_auroc

from digitlab.core.abilities import abilities
from digitlab.data.augment import Augmentation, Compose
from digitlab.data.evaluation import EvaluationBatch
from digitlab.data.module import ImageData
from digitlab.data.out_of_distribution import as_shape, noise_images
from digitlab.data.seeding import stream_seed
from digitlab.training.classifier import Classifier
from digitlab.training.evaluation import EvaluationAccelerator, evaluate

# A function that returns the batch that the network evaluates instead of a batch of the test set. Its generator is new
# for each batch, and is on the device of the batch.
Change = Callable[[EvaluationBatch, Generator], EvaluationBatch]


def measure_corrupted(
    classifier: Classifier, data: ImageData, corruptions: Mapping[int, Augmentation], *,
    accelerator: EvaluationAccelerator = "auto", seed: int = 0,
) -> dict[int, dict[str, float]]:  # fmt: skip
    """Return the metrics on the corrupted test set, keyed ``test/…``, for each severity in ``corruptions``.

    ``corruptions`` maps severities to augmentations, as ``digitlab.data.corrupt`` returns them. The random draws depend
    only on ``seed`` and on the position of an image in the test set, not on the severity. Raises ``ConfigError`` if
    this machine does not have the accelerator.
    """
    classes = len(data.source.class_names)
    return {
        severity: evaluate(
            classifier, _TestImages(data, _corrupted(corruption, classes), seed), accelerator=accelerator
        )
        for severity, corruption in corruptions.items()
    }


def corrupted_images(images: Tensor, corruption: Augmentation, *, seed: int = 0) -> Tensor:
    """Return ``images``, uint8 (N, C, H, W), after ``corruption``: float (N, C, H, W) in [0, 1]."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return corruption(images.float() / 255, labels, classes=1, generator=_generator(images.device, seed, 0))[0]


@dataclass(frozen=True, slots=True)
class Confidences:
    """The confidences of a network in images of its test set and in other images: float (N,) each, in [0, 1].

    The confidence is the largest score of an image: for cross-entropy the maximum softmax probability (Hendrycks and
    Gimpel, 2017). The score of a class for unknown images does not count, because a network that chooses this class is
    not confident in the image. ``auroc`` is the probability that an image of the test set has a higher confidence than
    another image, with ties counted half: 1 means that a threshold separates all images, 0.5 is no better than
    guessing.
    """

    in_distribution: Tensor
    out_of_distribution: Tensor

    @property
    def auroc(self) -> float:
        target = torch.cat([torch.ones_like(self.in_distribution), torch.zeros_like(self.out_of_distribution)]).long()
        return float(binary_auroc(torch.cat([self.in_distribution, self.out_of_distribution]), target))


def out_of_distribution(
    classifier: Classifier, data: ImageData, other: ImageData | None, *,
    accelerator: EvaluationAccelerator = "auto", seed: int = 0,
) -> Confidences:  # fmt: skip
    """Return the confidences in the test set of ``data`` and in that of ``other`` (None: in uniform noise).

    The images of ``other`` are converted to the shape of the network's images. Raises ``DataError`` if that is
    impossible, ``ConfigError`` if this machine does not have the accelerator.
    """
    shape = classifier.facts.shape

    def noise(batch: EvaluationBatch, generator: Generator) -> EvaluationBatch:
        return EvaluationBatch(noise_images(len(batch.images), shape, generator), batch.labels)

    def converted(batch: EvaluationBatch, generator: Generator) -> EvaluationBatch:
        # The labels of another data set may be outside the network's classes, and nothing here depends on them.
        return EvaluationBatch(as_shape(batch.images, shape), torch.zeros_like(batch.labels))

    other_images = _TestImages(data, noise, seed) if other is None else _TestImages(other, converted, seed)
    return Confidences(_confidence(classifier, data, accelerator), _confidence(classifier, other_images, accelerator))


def _confidence(classifier: Classifier, data: LightningDataModule, accelerator: EvaluationAccelerator) -> Tensor:
    """Return the largest score of each test image, without the class for unknown images: float (N,), on the CPU."""
    # The metrics that this returns are not needed, but it leaves the scores in ``classifier.test_scores``.
    evaluate(classifier, data, accelerator=accelerator)
    scores = torch.cat(classifier.test_scores)[:, classifier.facts.known_classes]
    return scores.max(1).values.cpu()


def _corrupted(corruption: Augmentation, classes: int) -> Change:
    """Return a function that applies ``corruption`` to a batch."""

    def change(batch: EvaluationBatch, generator: Generator) -> EvaluationBatch:
        # An empty ``Compose`` is severity 0. Its test must equal that of the run to the bit, so the images stay uint8.
        if isinstance(corruption, Compose) and not corruption:
            return batch
        images, _ = corruption(batch.images.float() / 255, batch.labels, classes=classes, generator=generator)
        return EvaluationBatch(images, batch.labels)

    return change


def _generator(device: torch.device, seed: int, batch: int) -> Generator:
    """Return a new generator on ``device`` for the test batch with the number ``batch``, counted from 0."""
    return abilities(device).new_generator(device).manual_seed(stream_seed("corrupt", seed, batch))


class _TestImages(LightningDataModule):
    """The test set of ``data`` with ``change`` applied to every batch, on the trainer's device."""

    def __init__(self, data: ImageData, change: Change, seed: int) -> None:
        super().__init__()
        self.data, self.change, self.seed = data, change, seed

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        self.data.setup(stage)

    def test_dataloader(self) -> "_ChangedLoader":
        assert self.trainer is not None
        self.data.to(self.trainer.strategy.root_device)
        return _ChangedLoader(self)

    def transfer_batch_to_device(
        self, batch: EvaluationBatch, device: torch.device, dataloader_idx: int
    ) -> EvaluationBatch:
        return batch


class _ChangedLoader:
    """Yields the batches of the test set of ``images.data``, in order, after ``images.change``."""

    def __init__(self, images: _TestImages) -> None:
        self.images = images
        self.loader = images.data.evaluation_loader("test")

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        for number, batch in enumerate(self.loader):
            yield self.images.change(batch, _generator(batch.images.device, self.images.seed, number))
