"""Losses compared with computation by hand and with PyTorch."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from digitlab.optim.losses import CrossEntropy, MeanSquaredError

pytestmark = pytest.mark.numerics

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
LABELS = torch.tensor([0, 1])


def value(loss, targets=LABELS, logits=LOGITS):
    return float(loss(logits, loss.encode(targets, logits.shape[1])))


def test_cross_entropy_is_the_mean_of_the_negative_log_probabilities():
    by_hand = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        by_hand += math.log(sum(math.exp(logit) for logit in row)) - row[label]
    assert value(CrossEntropy()) == pytest.approx(by_hand / 2)


def test_label_smoothing_spreads_probability_over_all_classes():
    smoothed = F.one_hot(LABELS, 3) * 0.9 + 0.1 / 3
    by_hand = -(smoothed * LOGITS.log_softmax(1)).sum(1).mean()
    assert value(CrossEntropy(label_smoothing=0.1)) == pytest.approx(float(by_hand))


@pytest.mark.parametrize(
    ("output", "outputs"),
    [
        ("softmax", LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)),
        ("sigmoid", 1 / (1 + (-LOGITS).exp())),
        ("raw", LOGITS),
    ],
)
def test_mse_is_the_mean_over_outputs_and_images(output, outputs):
    one_hot = [[1, 0, 0], [0, 1, 0]]
    squares = [
        (is_value - should) ** 2
        for row, targets in zip(outputs.tolist(), one_hot, strict=True)
        for is_value, should in zip(row, targets, strict=True)
    ]
    assert value(MeanSquaredError(output=output)) == pytest.approx(sum(squares) / 6)


each_loss = pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(),
        CrossEntropy(label_smoothing=0.2),
        *(MeanSquaredError(output=o) for o in ("softmax", "sigmoid", "raw")),
    ],
    ids=repr,
)


@each_loss
def test_one_hot_class_weights_equal_labels(loss):
    assert value(loss, F.one_hot(LABELS, 3).float()) == pytest.approx(value(loss))


@each_loss
def test_scores_are_in_0_to_1_and_ordered_like_the_logits(loss):
    logits = torch.rand(50, 10, generator=torch.Generator().manual_seed(0))
    scores = loss.scores(logits)
    assert 0 <= scores.min() <= scores.max() <= 1
    assert torch.equal(scores.argmax(1), logits.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_loss
def test_the_loss_keeps_the_precision_of_the_logits(loss, dtype):
    assert loss(LOGITS.to(dtype), loss.encode(LABELS, 3)).dtype == dtype


@pytest.mark.parametrize("bad", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"smoothing": 0.1}])
def test_cross_entropy_refuses(bad):
    with pytest.raises(ValidationError):
        CrossEntropy(**bad)


def test_mse_refuses_other_outputs():
    with pytest.raises(ValidationError):
        MeanSquaredError(output="tanh")
