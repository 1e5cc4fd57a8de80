"""A member of a population ends with the weights of its solo run, to 1e-8 in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

_MLP = ("model=mlp", "model.hidden=[12,8]")
# Two settings and two seeds, so that both matter.
_MIXED = (["optimizer.lr=0.02", "seed=0"], ["optimizer.lr=0.05", "seed=0"], ["optimizer.lr=0.05", "seed=3"])
_RELATIVE = 1e-8


def _difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two states of weights, relative to each tensor's largest entry."""
    assert one.keys() == other.keys()
    pairs = [(one[name].double(), other[name].double()) for name in one]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)


def _hold(together: Callable[..., Any], alone: Callable[..., Any], jobs: Sequence[list[str]], *common: str) -> None:
    # The first only sees to it that the others do not come first.
    for member, job in list(zip(together(*jobs, common=common), jobs, strict=True))[1:]:
        solo = alone(*common, *job)
        for which in ("last", "best"):
            ours, theirs = (read_checkpoint(getattr(f, which)) for f in (member.job.folder, RunFolder(solo.folder)))
            assert _difference(ours["state_dict"], theirs["state_dict"]) <= _RELATIVE
        assert member.outcome == pytest.approx(solo.monitored, rel=1e-8)


@pytest.mark.sample(16)
@pytest.mark.parametrize(
    "optimizer",
    [
        ["optimizer=sgd"],
        ["optimizer=sgd", "optimizer.momentum=0.9"],
        ["optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"],
        ["optimizer=adam"],
        ["optimizer=adamw"],
        ["optimizer=rmsprop"],
        ["optimizer=rmsprop", "optimizer.momentum=0.5"],
        ["optimizer=adagrad"],
        ["optimizer=muon", "optimizer.normalize_filters=true", "optimizer.sgd_layers=[output,hidden.2]"],
    ],
    ids=" ".join,
)
def test_a_member_equals_its_solo_run_with_every_optimizer(
    together: Callable[..., Any], alone: Callable[..., Any], optimizer: list[str]
) -> None:
    jobs = [*_MIXED, ["optimizer.lr=0.01", "optimizer.weight_decay=0.1", "seed=3"]]
    _hold(together, alone, jobs, *_MLP, *optimizer)


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "scheduler",
    [
        ["scheduler=steps", "scheduler.milestones_epochs=[1,2]"],
        ["scheduler=cosine", "scheduler.warmup_epochs=0.5"],
        ["scheduler=one_cycle"],
        ["scheduler=constant", "scheduler.warmup_epochs=1.5"],
    ],
    ids=" ".join,
)
def test_a_member_equals_its_solo_run_with_every_schedule(
    together: Callable[..., Any], alone: Callable[..., Any], scheduler: list[str]
) -> None:
    jobs = [["seed=0"], ["seed=0", "optimizer.lr=0.01", *scheduler], ["seed=1", *scheduler]]
    _hold(together, alone, jobs, *_MLP, "optimizer.lr=0.02")


@pytest.mark.sample(12)
@pytest.mark.parametrize(
    "loss",
    [
        ["loss=cross_entropy"],
        ["loss=cross_entropy", "loss.class_weights={3:5,7:0.2}", "loss.label_smoothing=0.1", "monitor.metric=val/loss"],
        ["loss=cross_entropy", "loss.class_weights=balanced", "augment=mixup"],
        ["loss=mse", "loss.output=softmax"],
        ["loss=mse", "loss.output=sigmoid"],
        ["loss=mse", "loss.output=raw"],
    ],
    ids=" ".join,
)
def test_a_member_equals_its_solo_run_with_every_loss(
    together: Callable[..., Any], alone: Callable[..., Any], loss: list[str]
) -> None:
    smoothing = ["loss.label_smoothing=0.1"] if loss == ["loss=cross_entropy"] else []
    _hold(together, alone, [["seed=0"], ["seed=0", *smoothing], ["seed=1", *smoothing]], *_MLP, *loss)


@pytest.mark.sample(12)
@pytest.mark.parametrize(
    "model",
    [
        ["model=linear"],
        ["model=mlp", "model.hidden=[12]", "model.activation=gelu"],
        ["model=mlp", "model.hidden=[12,8]", "model.batch_norm=true", "ema.decay=0.9"],
        ["model=mlp_dropout", "model.hidden=[12,8]"],
        ["model=mlp_dropout", "model.hidden=[12,8]", "model.batch_norm=true", "model.activation=[tanh,sigmoid]"],
        ["model=lenet"],
        ["model=lenet", "model.dropout=0", "model.activation=tanh"],
        pytest.param(["model=cnn", "model.width=4"], marks=pytest.mark.numerics),
    ],
    ids=" ".join,
)
def test_a_member_equals_its_solo_run_with_every_model(
    together: Callable[..., Any], alone: Callable[..., Any], model: list[str]
) -> None:
    _hold(together, alone, _MIXED, "optimizer=sgd", *model)


@pytest.mark.extra
def test_members_can_differ_in_all_numbers_of_muon(together: Callable[..., Any], alone: Callable[..., Any]) -> None:
    some = [f"optimizer.{number}" for number in ("sgd_lr=0.3", "momentum=0", "weight_decay=0.1")]
    others = [f"optimizer.{number}" for number in ("bias_lr=0.3", "sgd_momentum=0", "sgd_weight_decay=0.1")]
    _hold(together, alone, [["seed=0"], [*some, "seed=0"], [*others, "seed=1"]], *_MLP, "optimizer=muon")


@pytest.mark.extra
def test_filters_get_the_same_orthogonal_updates_as_in_a_solo_run(
    together: Callable[..., Any], alone: Callable[..., Any]
) -> None:
    jobs = [["seed=0"], ["seed=1", "optimizer.lr=0.05"]]
    _hold(together, alone, jobs, "model=cnn", "model.width=4", "optimizer=muon", "trainer.max_epochs=2")


def test_members_with_and_without_dropout_share_a_population(
    together: Callable[..., Any], alone: Callable[..., Any]
) -> None:
    jobs = [["seed=0"], ["seed=0", "model.dropout=0.5"], ["seed=1", "model.dropout=0.2"]]
    _hold(together, alone, jobs, *_MLP)


@pytest.mark.sample(12)
@pytest.mark.parametrize(
    "extra",
    [
        ["trainer.gradient_clip_norm=0.5"],
        ["ema.decay=0.95"],
        ["augment=[shift,mixup]"],
        ["data.val_size=0"],
        ["trainer.val_every_steps=3", "early_stopping={patience:4,unit:steps,min_delta:0.02}"],
        ["trainer.max_steps=10"],
        ["trainer.limit_train_batches=3"],
        ["trainer.overfit_batches=2"],
        ["data.batch_size=28"],
        ["optimizer=adamw", "optimizer.decay_layers=[output]", "optimizer.weight_decay=0.5"],
        ["monitor.metric=train/loss"],
    ],
    ids=" ".join,
)
def test_a_member_equals_its_solo_run_with_other_settings(
    together: Callable[..., Any], alone: Callable[..., Any], extra: list[str]
) -> None:
    _hold(together, alone, _MIXED, *_MLP, *extra)
