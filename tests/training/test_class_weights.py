"""``loss.class_weights``: equal to PyTorch's weighted loss, alone and stacked, in training and in evaluation."""

import pytest
import torch
from torch import nn

from digitlab.core.errors import ConfigError
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.optim.losses import CrossEntropy
from digitlab.training.evaluation import measure_alone
from digitlab.training.experiment import Experiment
from digitlab.training.setup import initial_classifier, read_data

NAMES = ("cat", "dog", "7")
COUNTS = [6, 3, 1]
SETTINGS = {"balanced": "balanced", "named": {"dog": 2.5, 7: 0.25}}
LABELS = torch.tensor([0, 0, 1, 2, 1, 0, 2])
MIXED = torch.rand(7, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
LOGITS = 3 * torch.randn(7, 3, generator=torch.Generator().manual_seed(0))

each_case = [
    pytest.mark.parametrize("smoothing", [0.0, 0.2]),
    pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "mixed"]),
    pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS),
    pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str),
]


def all_cases(function):
    for mark in each_case:
        function = mark(function)
    return function


def ours(setting, smoothing=0.0):
    return CrossEntropy(class_weights=setting, label_smoothing=smoothing).for_classes(NAMES, COUNTS)


def theirs(setting, smoothing, dtype):
    weights = [10 / 18, 10 / 9, 10 / 3] if setting == "balanced" else [1.0, 2.5, 0.25]
    return nn.CrossEntropyLoss(torch.tensor(weights, dtype=dtype), label_smoothing=smoothing)


@all_cases
def test_the_loss_and_its_gradient_are_those_of_pytorch(setting, targets, smoothing, dtype):
    logits, other = (LOGITS.to(dtype, copy=True).requires_grad_() for _ in range(2))
    loss = ours(setting, smoothing)
    value = loss(logits, loss.encode(targets, 3))
    should = theirs(setting, smoothing, dtype)(other, targets if targets.ndim == 1 else targets.to(dtype))
    value.backward(), should.backward()
    torch.testing.assert_close(value, should)
    torch.testing.assert_close(logits.grad, other.grad)


@all_cases
def test_the_stacked_loss_and_its_gradient_are_those_of_each_member_alone(setting, targets, smoothing, dtype):
    loss = ours(setting, smoothing)
    encoded = loss.encode(targets, 3)
    stacked = StackedLoss.from_members([loss, loss], device=torch.device("cpu"), dtype=dtype)
    members = torch.stack([LOGITS, LOGITS.flip(0)]).to(dtype)
    both = encoded.expand(2, *encoded.shape)
    alone = [member.requires_grad_() for member in members.clone().unbind()]
    losses = torch.stack([loss(logits, encoded) for logits in alone])
    gradients = torch.stack(torch.autograd.grad(losses.sum(), alone))
    torch.testing.assert_close(stacked(members, both).mean(1), losses)
    torch.testing.assert_close(stacked.gradient(members, both), gradients)


def test_balanced_classes_have_the_same_total_weight_and_a_mean_of_one():
    loss = CrossEntropy(class_weights="balanced").for_classes(("a", "b", "absent", "c"), [10, 40, 0, 50])
    totals = [weight * count for weight, count in zip(loss.weights, [10, 40, 0, 50], strict=True)]
    assert totals == pytest.approx([100 / 3, 100 / 3, 0, 100 / 3])
    assert loss.weights[2] == 1


def test_without_class_weights_the_loss_stays_as_it_is():
    loss = CrossEntropy(label_smoothing=0.1)
    assert loss.for_classes(NAMES, COUNTS) is loss


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.class_weights={3:2,33:1}", "there is no class 33 (did you mean `3`?); the classes are 0, 1"),
        ("loss.class_weights={3:0}", "must be balanced, or {name: a number above 0}, or null"),
        ("loss.class_weights={3:x}", "must be balanced, or {name: a number above 0}, or null"),
        ("loss.class_weights=ballanced", "(did you mean `balanced`?)"),
        ("loss.class_weights={}", "must name at least one class"),
        ("loss.class_weights=[1,2]", "must be balanced"),
    ],
)
def test_wrong_weights_are_refused_in_one_line(override, words, shrunk, one_line):
    with pytest.raises(ConfigError) as caught:
        Experiment.from_config(shrunk(override), typed=[override])
    assert caught.value.key == "loss.class_weights"
    assert words in str(caught.value)
    assert one_line(str(caught.value))


def test_the_mean_squared_error_has_no_class_weights(shrunk):
    with pytest.raises(ConfigError, match=r"^loss.class_weights=balanced: "):
        shrunk("loss=mse", "loss.class_weights=balanced")


def test_balanced_weights_come_from_the_training_split(shrunk):
    experiment = Experiment.from_config(shrunk("loss.class_weights=balanced", "data.train_size=1000"), typed=[])
    data = read_data(experiment)
    counts = data.train_set.labels[data.train_indices].bincount()
    assert counts.sum() == 1000
    assert initial_classifier(experiment, data).loss.weights == pytest.approx((1000 / (10 * counts)).tolist())


def test_the_loss_of_an_evaluation_is_the_weighted_mean_over_all_images(shrunk):
    overrides = ["loss.class_weights={3:5,7:0.1}", "loss.label_smoothing=0.1", "model=linear"]
    experiment = Experiment.from_config(shrunk(*overrides), typed=[])
    data = read_data(experiment)
    classifier = initial_classifier(experiment, data)
    metrics, confusion = measure_alone(classifier, data)
    images = int(confusion.sum())
    assert images == 256  # two batches of different sizes
    weights = torch.ones(10)
    weights[3], weights[7] = 5, 0.1
    with torch.no_grad():
        logits = classifier(data.test_set.images[:images])
    should = nn.CrossEntropyLoss(weights, label_smoothing=0.1)(logits, data.test_set.labels[:images])
    assert metrics["test/loss"] == pytest.approx(float(should), rel=1e-5)
