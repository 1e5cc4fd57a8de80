"""Evaluates a classifier on a test set: metrics, confusion matrix and calibration.

Each run does this once, after its training; ``digitlab evaluate`` does it again. Scores are the confidences in [0, 1]
that the loss computes from logits; for cross-entropy they are the softmax. N images, K classes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from digitlab.core.errors import ConfigError
from digitlab.engine.device import float32_products
from digitlab.engine.metrics import Counts
from digitlab.training.accelerator import choose_accelerator, cuda_problem
from digitlab.training.classifier import Classifier

# The devices on which a finished run can be evaluated.
EvaluationAccelerator = Literal["auto", "cpu", "cuda"]
# The number of bins in the paper that introduced the expected calibration error for networks (Guo et al., 2017).
CALIBRATION_BINS = 15


def measure_test(
    trainer: Trainer, classifier: Classifier, data: LightningDataModule
) -> tuple[dict[str, float], Tensor]:
    """Return metrics keyed ``test/…`` and the confusion matrix, int64 (K, K), on the test split of ``data``.

    The metrics are those of ``Counts.metrics`` (loss, accuracy, F1, …), the accuracy of each class, and the calibration
    error in [0, 1]: images are divided into 15 bins by their confidence, the largest score, and the error is the mean
    distance between the confidence and the accuracy of a bin, weighted by its images.
    """
    trainer.test(classifier, datamodule=data, verbose=False)
    return _last_test(classifier)


def measure_alone(classifier: Classifier, data: LightningDataModule) -> tuple[dict[str, float], Tensor]:
    """Do the same as ``measure_test`` without a Trainer, which the members of a population (``population``) don't have.

    The images of ``data`` must be on the classifier's device.
    """
    classifier.eval()
    with torch.inference_mode():
        classifier.on_test_epoch_start()
        for number, batch in enumerate(data.test_dataloader()):
            classifier.test_step(batch, number)
    return _last_test(classifier)


def _last_test(classifier: Classifier) -> tuple[dict[str, float], Tensor]:
    """Return the results of the test that ``classifier`` has just finished."""
    scores, labels = torch.cat(classifier.test_scores), torch.cat(classifier.test_labels)
    return test_metrics(classifier.evaluation, scores, labels, class_names=classifier.facts.class_names)


def test_metrics(
    counts: Counts, scores: Tensor, labels: Tensor, *, class_names: Sequence[str]
) -> tuple[dict[str, float], Tensor]:
    """Return what ``measure_test`` returns, from the ``counts``, scores (N, K) and labels (N,) of a test."""
    metrics = counts.metrics()
    metrics["calibration_error"] = float(
        multiclass_calibration_error(scores, labels, num_classes=scores.shape[1], n_bins=CALIBRATION_BINS)
    )
    metrics |= {f"class_accuracy/{name}": value for name, value in counts.class_accuracy(class_names).items()}
    return {f"test/{name}": value for name, value in metrics.items()}, counts.confusion.cpu()


def evaluate(
    classifier: Classifier, data: LightningDataModule, *, accelerator: EvaluationAccelerator = "auto"
) -> dict[str, float]:
    """Return metrics keyed ``test/…`` of a finished run's ``classifier`` on the test split of ``data``.

    ``data`` may be another data set than that of the run. Matrix products have the same precision as in the run. Raises
    ``ConfigError`` if this machine does not have the accelerator.
    """
    if accelerator == "cuda":
        problem = cuda_problem() if torch.cuda.is_available() else "no CUDA device is here"
        if problem is not None:
            raise ConfigError("device", accelerator, f"{problem}: use auto or cpu")
    trainer = Trainer(
        accelerator=choose_accelerator(accelerator), devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with float32_products(trainer.strategy.root_device, classifier.execution.precision):
        return measure_test(trainer, classifier, data)[0]
