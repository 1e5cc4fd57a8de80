"""The hint at the end of a run whose network has hardly learned anything."""

import math

import pytest

from digitlab.optim.losses import CrossEntropy, MeanSquaredError
from digitlab.training import train
from digitlab.training.learning_hint import guess_loss, learning_hint


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(), math.log(4)),
        (CrossEntropy(label_smoothing=0.3), math.log(4)),
        (CrossEntropy(class_weights={"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}).for_classes("abcd", None), math.log(4)),
        (MeanSquaredError(output="softmax"), (0.75**2 + 3 * 0.25**2) / 4),
        (MeanSquaredError(output="sigmoid"), 0.25),
        (MeanSquaredError(output="raw"), 0.25),
    ],
)
def test_the_loss_of_a_guess_is_that_of_four_equal_answers(loss, expected):
    assert guess_loss(loss, 4) == pytest.approx(expected)


def row(step, train_loss, recall, val_loss=None, val_recall=None):
    values = {"step": step, "train/loss": train_loss, "train/accuracy": recall, "train/balanced_accuracy": recall}
    values |= {"train_seconds": 2.0, "images_per_second": 2500.0}
    if val_loss is not None:
        values |= {"val/loss": val_loss, "val/balanced_accuracy": val_recall}
    return values


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(200, 0.5, 0.85, 0.5, 0.85)], None),
        ([row(200, 1e28, 0.8, 1e28, 0.8)], "the training loss ended at 1e+28, and a network that guesses has 2.3"),
        ([row(200, 30.0, 0.8)], "the training loss ended at 30"),
        ([row(99, 1e28, 0.1)], None),  # too few updates to say anything
        ([row(200, 0.01, 0.99, 40.0, 0.6)], None),  # overfits
        ([row(200, 90.0, 0.3, 0.6, 0.8)], None),  # the first updates were wild, but it has learned
        ([row(200, 2.303, 0.1, 2.303, 0.1)], "the network only guesses: its accuracy on the training images ended at"),
        ([row(200, 2.303, 0.11)], "the network only guesses"),  # 5,000 images: within three deviations of chance
        ([row(200, 2.28, 0.12)], None),
        ([row(200, 2.303, 0.1, 2.2, 0.2)], None),  # it has just begun to learn
        ([row(200, 1.9, 0.3), row(400, 2.0, 0.25)], "the training loss did not fall: it was 1.9 and ended at 2;"),
        ([row(200, 1.9, 0.3), row(400, 1.8, 0.35)], None),
        ([row(200, 0.01, 0.99), row(400, 0.012, 0.99)], None),  # a network that was trained before
        ([], None),
    ],
)
def test_only_runs_that_have_hardly_learned_get_a_hint(rows, words):
    hint = learning_hint(rows, guess_loss=math.log(10), classes=10)
    if words is None:
        assert hint is None
    else:
        assert hint.startswith(words)
        assert "optimizer.lr is probably too large" in hint
        assert "python train.py -m sweep=lr_range" in hint


SMALL = ("model=mlp", "trainer.limit_train_batches=null", "data.train_size=1000", "data.batch_size=10")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.lr=1e6"], "the training loss ended at"),
        (["optimizer=sgd", "optimizer.lr=1e-9", "loss=mse"], "the network only guesses"),
        ([], None),
    ],
)
def test_a_finished_run_logs_the_hint(overrides, words, shrunk, run_folder, caplog):
    caplog.set_level("INFO")
    train(shrunk(*SMALL, "trainer.max_epochs=1", *overrides), folder=run_folder, overrides=[])
    hints = [line for line in caplog.messages if "optimizer.lr is probably" in line]
    assert len(hints) == (words is not None)
    assert all(line.startswith(words) for line in hints)
