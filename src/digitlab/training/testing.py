"""The test set, met once: metrics, confusion matrix and calibration of one checkpoint."""

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from digitlab.training.classifier import Classifier

# As in the paper that named it expected calibration error (Guo et al., 2017).
_CALIBRATION_BINS = 15


def measure_test(trainer: Trainer, classifier: Classifier, data: LightningDataModule) -> tuple[dict[str, float], Tensor]:
    """Metrics keyed ``test/…`` and the confusion matrix, int64 (K, K), of ``classifier`` on the test split of ``data``.

    Besides loss, accuracy and F1 they are the accuracy of each class and the calibration error: the mean distance of
    confidence and accuracy over 15 bins of confidence, in [0, 1].
    """
    trainer.test(classifier, datamodule=data, verbose=False)
    counts = classifier.evaluation
    scores = torch.cat(classifier.test_scores)
    labels = torch.cat(classifier.test_labels)
    metrics = counts.metrics()
    metrics["calibration_error"] = float(
        multiclass_calibration_error(scores, labels, num_classes=scores.shape[1], n_bins=_CALIBRATION_BINS)
    )
    metrics |= {
        f"class_accuracy/{name}": value for name, value in counts.class_accuracy(classifier.facts.class_names).items()
    }
    return {f"test/{name}": value for name, value in metrics.items()}, counts.confusion.cpu()
