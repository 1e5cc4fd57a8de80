"""Compiled populations equal their solo runs, and one library serves any number of members."""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted, StopSignal
from digitlab.engine import aot_cache as compiling
from digitlab.engine import fused_calls
from digitlab.engine.aot_cache import CompilerError, cache_folder
from digitlab.engine.dropout_masks import DropoutMasks
from digitlab.engine.stacked_optimizer import LearningRates
from digitlab.population.member import Member
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

Together = Callable[..., list[Member]]
COMPILER = shutil.which("g++") or shutil.which("clang++")
# 21 mini-batches an epoch, 16 of them in calls.
SHORT = ("model.hidden=[8]", "data.train_size=210", "data.batch_size=10", "compile=true")
JOBS = (["seed=0"], ["optimizer.lr=0.02", "seed=0"], ["optimizer.lr=0.05", "seed=3"])
RUNS = (
    "optimizer=sgd optimizer.weight_decay=1e-3 loss=mse loss.output=sigmoid model.activation=sigmoid",
    "model=linear optimizer=sgd optimizer.momentum=0.9 optimizer.nesterov=true trainer.val_every_steps=13",
    "model=mlp_dropout optimizer=adamw optimizer.weight_decay=0.01 ema.decay=0.99 loss.label_smoothing=0.1 "
    "loss.class_weights={3:5}",
    "optimizer=adam model.batch_norm=true loss=mse augment=[shift] data.batch_size=30 data.train_size=330",
    "optimizer=adagrad trainer.gradient_clip_norm=0.5 augment=[mixup] scheduler=cosine",
    "optimizer=muon optimizer.weight_decay=0.1 optimizer.normalize_filters=true optimizer.bias_lr=0.3 scheduler=cosine",
)


def _difference(one: RunFolder, other: RunFolder) -> float:
    """Of the weights of two runs at their end, relative to the largest of each tensor."""
    weights, others = (read_checkpoint(folder.last)["state_dict"] for folder in (one, other))
    assert weights.keys() == others.keys()
    pairs = [(weights[name].double(), others[name].double()) for name in others]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)


def _hold(members: Sequence[Member], alone: Callable[..., Any], jobs: Sequence[list[str]], common: list[str]) -> None:
    for member, job in zip(members, jobs, strict=True):
        solo = alone(*common, *job, "compile=false")
        assert _difference(member.job.folder, RunFolder(solo.folder)) <= 1e-8
        assert member.outcome == pytest.approx(solo.monitored, rel=1e-8)
        assert member.job.folder.read_result()["epochs"] == solo.result["epochs"]


@pytest.mark.sample(8)
@pytest.mark.parametrize("overrides", RUNS)
def test_compiled_members_equal_their_solo_runs(
    together: Together, alone: Callable[..., Any], uncompiled: list[int], overrides: str
) -> None:
    common = [override for override in SHORT if "hidden" not in override or "linear" not in overrides]
    common += overrides.split()
    _hold(together(*JOBS, common=common)[1:], alone, JOBS[1:], common)
    assert set(uncompiled) == {2, 1}


def test_the_last_member_with_momentum_can_leave(
    together: Together, alone: Callable[..., Any], uncompiled: list[int]
) -> None:
    jobs = [["seed=0"], ["seed=0", "optimizer.momentum=0.9", "trainer.max_epochs=1"]]
    common = [*SHORT, "optimizer=sgd", "model.hidden=[8]"]
    _hold(together(*jobs, common=common), alone, jobs, common)


@pytest.mark.extra
def test_remaining_members_stay_compiled_when_others_leave(
    together: Together, alone: Callable[..., Any], uncompiled: list[int]
) -> None:
    jobs = [
        ["seed=0", "model.dropout=0.2"],
        ["seed=0", "trainer.max_epochs=2", "optimizer.weight_decay=0.1"],
        ["seed=1", "trainer.max_epochs=1"],
        ["seed=2", "optimizer.momentum=0.9"],
    ]
    common = [*SHORT, "optimizer=sgd"]
    _hold(together(*jobs, common=common), alone, jobs, common)
    assert uncompiled == [2, 1, 1] * 2 + [2, 1] * 2 + [1, 1] * 2


def test_a_diverging_member_fails_like_its_solo_run_and_the_others_do_not_change(
    together: Together, alone: Callable[..., Any], uncompiled: list[int]
) -> None:
    common = [*SHORT, "optimizer=sgd", "loss=mse", "loss.output=raw"]
    jobs = [["optimizer.lr=0.01"], ["optimizer.lr=1e20"], ["optimizer.lr=0.02"]]
    good, bad, other = together(*jobs, common=common)
    with pytest.raises(RunError) as solo:
        alone(*common, *jobs[1], "compile=false")
    assert str(bad.outcome) == str(solo.value)
    assert all(parameter.isfinite().all() for parameter in bad.classifier.parameters())
    _hold([good, other], alone, [jobs[0], jobs[2]], common)
    assert uncompiled


@pytest.mark.extra
def test_members_stopped_between_two_calls_resume_to_the_same_bits(
    together: Together,
    remains: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupting: Callable[..., Callable[..., Any]],
    uncompiled: list[int],
) -> None:
    common = [*SHORT, "model.dropout=0.2", "optimizer=adam", "trainer.chunk_length=16", "trainer.max_epochs=2"]
    whole = [remains(member.job.folder.path) for member in together(*JOBS, common=common)]
    (tmp_path / "together").rename(tmp_path / "whole")
    uncompiled.clear()
    for resume in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(DropoutMasks, "draw", interrupting(DropoutMasks.draw, at=3))
            with pytest.raises(Interrupted):
                together(*JOBS, common=common, resume=resume)
    assert uncompiled == [2, 1] * 2
    members = together(*JOBS, common=common, resume=True)
    assert [remains(member.job.folder.path) for member in members] == whole


@pytest.mark.sample(2)
@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_networks_that_gain_little_are_not_compiled(
    together: Together, uncompiled: list[int], caplog: pytest.LogCaptureFixture, model: str
) -> None:
    caplog.set_level(logging.INFO, "digitlab")
    large = {"lenet": ["data.batch_size=50"], "mlp": ["model.hidden=[1000]"]}[model]
    common = [f"model={model}", *large, "compile=true", "trainer.max_epochs=1", "trainer.max_steps=9"]
    together(["seed=0"], ["seed=1"], common=common)
    assert not uncompiled
    assert [each.levelname for each in caplog.records if "time for a population" in each.message] == ["INFO"]


@pytest.mark.long
@pytest.mark.extra
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_one_library_serves_any_number_of_members_and_later_sweeps(
    together: Together,
    alone: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # In seconds: a library of eight takes its compiler half a minute.
    monkeypatch.setattr(compiling, "_STEPS_OF_SMALL_NETWORKS", 2)
    caplog.set_level(logging.INFO, "digitlab")
    common = [*SHORT, "model=linear", "optimizer=sgd", "optimizer.weight_decay=1e-3"]
    common.remove("model.hidden=[8]")
    jobs = [["seed=0"], ["seed=0", "trainer.max_epochs=1"], ["seed=1", "optimizer.lr=0.3"]]
    _hold(together(*jobs, common=common)[2:], alone, jobs[2:], common)
    shutil.rmtree(tmp_path / "together")
    jobs = [["seed=4", f"optimizer.weight_decay={decay}"] for decay in (0.1, 0.2, 0.3, 0.4)]
    _hold(together(*jobs, common=common)[3:], alone, jobs[3:], common)
    assert caplog.text.count("compiled 2 updates in") == 1
    assert len(list(cache_folder().glob("*.pt2"))) == 1


@pytest.mark.long
@pytest.mark.extra
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_compiled_gradients_are_as_exact_as_eager_ones_in_float32(
    stacked: Callable[..., Any], as_exact_as: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "_STEPS_OF_SMALL_NETWORKS", 2)
    # With plain SGD and the rates 1 and 0, the first update subtracts the gradient and the second one nothing. So the
    # difference of the weights is the gradient.
    monkeypatch.setattr(LearningRates, "table", lambda *_: torch.tensor([[1.0] * 3, [0.0] * 3], dtype=torch.float64))
    gradients = []
    sizes = ("data.batch_size=30", "data.train_size=1920")
    settings = ("model.hidden=[8]", "model.batch_norm=true", "optimizer=sgd", *sizes)
    for precision, asked in (("64", False), ("32", False), ("32", True)):
        runner, chunks = stacked(*settings, f"trainer.precision={precision}", compiling=asked)
        before = [parameter.clone() for parameter in runner.stack.parameters]
        own = [chunk.part(0, 2) for chunk in chunks]
        runner.prepare(own, first=0, steps_ahead=2)
        assert runner.fused_updates.ready == asked
        runner.run_chunk(own, first=0, stop_signal=StopSignal())
        gradients.append([old - new for old, new in zip(before, runner.stack.parameters, strict=True)])
    exact, eager, whole = gradients
    as_exact_as([eager], whole, exact)


def test_a_population_that_cannot_be_compiled_trains_eagerly(
    together: Together,
    alone: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CompilerError("no compiler")

    monkeypatch.setattr(fused_calls, "compile_or_load", refuse)
    jobs = [["seed=0"], ["seed=1", "trainer.max_epochs=1"]]
    _hold(together(*jobs, common=list(SHORT))[1:], alone, jobs[1:], list(SHORT))
    assert caplog.text.count("compile: no compiler; training without") == 1
