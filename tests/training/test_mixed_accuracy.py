"""Training accuracy with mixed images: an image counts as the class with the larger weight in its target."""

import csv

import pytest
import torch

from digitlab.data.chunks import Position
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.experiment import Experiment
from digitlab.training.setup import initial_classifier, read_data, training_plan


@pytest.mark.sample(2)
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_training_accuracy_counts_the_class_with_the_larger_weight(shrunk, run_folder, compiled):
    # The learning rate is so small that the network stays as it was at the start, so its answers can be repeated here.
    overrides = (
        "model=linear", "augment=mixup", "augment.mixup.alpha=1.0", "optimizer=sgd", "optimizer.lr=1e-12",
        "trainer.max_epochs=1", "trainer.limit_train_batches=8", "trainer.chunk_length=8", "data.batch_size=64",
        f"compile={compiled}",
    )  # fmt: skip
    train(shrunk(*overrides), folder=run_folder)
    [row] = csv.DictReader(RunFolder(run_folder).metrics.read_text(encoding="utf-8").splitlines())

    experiment = Experiment.from_config(shrunk(*overrides), typed=list(overrides))
    data = read_data(experiment)
    classifier = initial_classifier(experiment, data).eval()
    right, own, images = 0, 0, 0
    for chunk in data.chunks(training_plan(experiment, data).chunks, Position()):
        minibatches = chunk.minibatches(classifier.normalise, lambda targets, _: targets)
        for (pixels, targets, _), labels in zip(minibatches, chunk.labels.split(chunk.sizes), strict=True):
            with torch.no_grad():
                predicted = classifier.network(pixels).argmax(1)
            right += int((predicted == targets.argmax(1)).sum())
            own += int((predicted == labels).sum())
            images += len(labels)
    assert images == 8 * 64
    assert float(row["train/accuracy"]) == pytest.approx(right / images)
    # The labels of the images themselves would give another number, so this test could tell.
    assert right != own
