"""Metrics compared with torchmetrics and with counts by hand, also for classes that never occur."""

import math

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from digitlab.engine.metrics import NAMES, Counts

CLASSES = 5


def predictions(images=200, *, seed=0, labels_below=CLASSES, predicted_below=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, CLASSES, generator=generator)
    logits[:, predicted_below:] = -10
    return logits, torch.randint(labels_below, (images,), generator=generator)


def counted(logits, labels, *, parts=1):
    counts = Counts.zeros(CLASSES, torch.device("cpu"))
    for part, part_labels in zip(logits.chunk(parts), labels.chunk(parts), strict=True):
        counts.add(part, part_labels)
    return counts


@pytest.mark.parametrize(
    "absent",
    [{}, {"labels_below": 3}, {"predicted_below": 3}, {"labels_below": 3, "predicted_below": 4}, {"labels_below": 1}],
)
def test_metrics_equal_torchmetrics(absent):
    logits, labels = predictions(**absent)
    counts = counted(logits, labels)
    metrics = counts.metrics()
    assert metrics["accuracy"] == pytest.approx(float(multiclass_accuracy(logits, labels, CLASSES, average="micro")))
    for name, average in (("f1", "macro"), ("f1_weighted", "weighted")):
        assert metrics[name] == pytest.approx(float(multiclass_f1_score(logits, labels, CLASSES, average=average)))
    assert torch.equal(counts.confusion, multiclass_confusion_matrix(logits, labels, CLASSES))


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur():
    # Class 0: 3 of 4 right; class 1: 0 of 1; class 2: 2 of 2; classes 3 and 4 never occur, but 4 is predicted.
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    predicted = torch.tensor([0, 0, 0, 4, 2, 2, 2])
    metrics = counted(torch.nn.functional.one_hot(predicted, CLASSES).float(), labels).metrics()
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert metrics["accuracy"] == pytest.approx(5 / 7)


def test_balanced_accuracy_is_that_of_torchmetrics_where_all_classes_occur():
    logits, labels = predictions()
    labels[:100] = 0
    expected = float(multiclass_accuracy(logits, labels, CLASSES, average="macro"))
    metrics = counted(logits, labels).metrics()
    assert metrics["balanced_accuracy"] == pytest.approx(expected)
    assert metrics["balanced_accuracy"] != pytest.approx(metrics["accuracy"], abs=1e-3)


def test_class_accuracy_is_the_share_of_each_class_that_occurs():
    logits, labels = predictions(labels_below=4)
    accuracies = counted(logits, labels).class_accuracy("abcde")
    expected = multiclass_accuracy(logits, labels, CLASSES, average="none")
    assert accuracies == pytest.approx({name: float(expected[i]) for i, name in enumerate("abcd")})


def test_counts_do_not_depend_on_the_parts():
    logits, labels = predictions()
    assert torch.equal(counted(logits, labels, parts=7).confusion, counted(logits, labels).confusion)


def test_metrics_over_no_image_are_nan():
    metrics = counted(*predictions(0)).metrics()
    assert set(metrics) == set(NAMES)
    assert all(math.isnan(value) for value in metrics.values())
