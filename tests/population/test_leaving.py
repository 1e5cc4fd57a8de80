"""Members leave a population when their runs end, and the others do not change."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted
from digitlab.data.chunks import Position
from digitlab.engine.stacked_optimizer import StackedOptimizer
from digitlab.population.member import Member
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

_MLP = ("model=mlp", "model.hidden=[8]", "optimizer=sgd", "optimizer.momentum=0.9", "trainer.max_epochs=5")


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(folder.last)["state_dict"]
    return weights


def _close(one: RunFolder, other: RunFolder) -> None:
    torch.testing.assert_close(_weights(one), _weights(other), rtol=1e-8, atol=1e-10)


def test_members_leave_at_early_stopping_and_the_others_continue(
    together: Callable[..., list[Member]], alone: Callable[..., Any]
) -> None:
    stopping = "early_stopping={patience:1,unit:epochs,min_delta:0.05}"
    jobs = [["seed=0"], ["seed=1", stopping], ["seed=1", "optimizer.lr=0.0001", stopping], ["seed=1"]]
    members = together(*jobs, common=_MLP)
    epochs = [member.job.folder.read_result()["epochs"] for member in members]
    assert epochs[0] == epochs[3] == 5
    assert min(epochs) < 5
    for member, job in zip(members, jobs, strict=True):
        solo = alone(*_MLP, *job)
        assert solo.result["epochs"] == member.job.folder.read_result()["epochs"]
        _close(member.job.folder, RunFolder(solo.folder))


@pytest.mark.extra
def test_members_with_different_numbers_of_epochs_share_a_population(
    together: Callable[..., list[Member]], alone: Callable[..., Any]
) -> None:
    jobs = [["trainer.max_epochs=1"], ["trainer.max_epochs=3"], ["trainer.max_epochs=2"]]
    common = (*_MLP, "scheduler=cosine")
    for member, job in zip(together(*jobs, common=common), jobs, strict=True):
        _close(member.job.folder, RunFolder(alone(*common, *job).folder))


# The loss; a weight, by a rate at the end of what float64 holds; the norm by which a gradient is clipped.
@pytest.mark.extra
@pytest.mark.parametrize(
    ("diverging", "options"),
    [
        (["optimizer.lr=1e20"], ()),
        (["optimizer.lr=1.7e308", "optimizer.momentum=0.95"], ("optimizer.nesterov=true",)),
        (["optimizer.lr=1e100"], ("trainer.gradient_clip_norm=1e99", "ema.decay=0.9")),
    ],
    ids=["loss", "weights", "norm"],
)
def test_a_diverging_member_fails_like_its_solo_run_and_the_others_do_not_change(
    together: Callable[..., list[Member]], alone: Callable[..., Any], diverging: list[str], options: tuple[str, ...]
) -> None:
    common = (*_MLP, "loss=mse", "loss.output=raw", "model.dropout=0.2", *options)
    jobs = [["optimizer.lr=0.01"], diverging, ["optimizer.lr=0.02"]]
    good, bad, other = together(*jobs, common=common)
    assert all(parameter.isfinite().all() for parameter in bad.classifier.parameters())
    with pytest.raises(RunError) as solo:
        alone(*common, *jobs[1])
    assert isinstance(bad.outcome, RunError)
    assert str(bad.outcome) == str(solo.value)
    result = bad.job.folder.read_result()
    assert (result["status"], result["error"]) == ("failed", f"RunError: {solo.value}")
    for member, job in ((good, jobs[0]), (other, jobs[2])):
        _close(member.job.folder, RunFolder(alone(*common, *job).folder))


@pytest.mark.sample(2)
@pytest.mark.parametrize("optimizer", [("optimizer.nesterov=true",), ("optimizer=muon",)], ids=" ".join)
def test_a_signal_saves_all_members_and_a_solo_run_can_resume_from_there(
    together: Callable[..., list[Member]],
    alone: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    optimizer: tuple[str, ...],
) -> None:
    common = (*_MLP, *optimizer, "optimizer.weight_decay=0.01")
    monkeypatch.setattr(Member, "count", _interrupting(Member.count, after=3))
    with pytest.raises(Interrupted):
        together(["seed=0"], ["seed=1"], common=[*common, "trainer.chunk_length=2"])
    monkeypatch.undo()
    whole = alone(*common, "seed=1")
    stopped = RunFolder(whole.folder.parent.parent / "together" / "1")
    assert stopped.read_result()["status"] == "stopped"
    assert read_checkpoint(stopped.last)["position"] == {"epoch": 0, "step": 4, "total_steps": 4}
    resumed = alone(*common, "seed=1", folder=stopped.path, resume=True)
    assert resumed.result["epochs"] == 5
    _close(stopped, RunFolder(whole.folder))


@pytest.mark.sample(3)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_stopped_population_resumes_to_the_same_end(
    together: Callable[..., list[Member]],
    alone: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    optimizer: str,
) -> None:
    jobs = [["seed=0", "optimizer.weight_decay=0.1"], ["seed=1"], ["seed=1", "trainer.max_epochs=1"]]
    common = ["model.hidden=[8]", "ema.decay=0.9", f"optimizer={optimizer}", "trainer.chunk_length=2"]
    monkeypatch.setattr(Member, "count", _interrupting(Member.count, after=13))
    with pytest.raises(Interrupted):
        together(*jobs, common=common)
    monkeypatch.undo()
    outcomes = {member.job.number: member.outcome for member in together(*jobs, common=common, resume=True)}
    assert outcomes.keys() == {0, 1}  # the third had finished
    for number, job in enumerate(jobs):
        solo, folder = alone(*common, *job), RunFolder(tmp_path / "together" / str(number))
        assert outcomes.get(number, solo.monitored) == pytest.approx(solo.monitored)
        assert folder.read_result()["epochs"] == solo.result["epochs"]
        _close(folder, RunFolder(solo.folder))


def _interrupting(count: Callable[..., None], *, after: int) -> Callable[..., None]:
    calls = 0

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        count(*arguments, **named)
        calls += 1
        if calls == after:
            os.kill(os.getpid(), signal.SIGTERM)

    return counted


_STATEFUL = ("ema.decay=0.9", "augment=[shift]", "scheduler=cosine", "optimizer=adamw", "trainer.precision=32")
_THREE = (["seed=0", "model.dropout=0.2"], ["seed=1", "model.dropout=0.5"], ["seed=1", "trainer.max_epochs=1"])
Remains = Callable[[Path], dict[str, Any]]


@pytest.fixture
def left_alone(
    together: Callable[..., list[Member]], remains: Remains, tmp_path: Path
) -> Callable[..., list[dict[str, Any]]]:
    """``left_alone(*common)`` is what three members leave that nothing stops, in two epochs of five mini-batches."""

    def run(*common: str) -> list[dict[str, Any]]:
        members = together(*_THREE, common=[*_STATEFUL, "trainer.max_epochs=2", *common])
        left = [remains(member.job.folder.path) for member in members]
        (tmp_path / "together").rename(tmp_path / "whole")
        return left

    return run


@pytest.mark.extra
@pytest.mark.parametrize(
    ("common", "steps"),
    [(["model.hidden=[8]"], (1, 2, 2, 1, 3)), (["model=cnn", "model.width=4"], (3, 4))],
    ids=["mlp", "cnn"],
)
def test_members_stopped_again_and_again_end_with_the_same_bits(
    together: Callable[..., list[Member]],
    left_alone: Callable[..., list[dict[str, Any]]],
    remains: Remains,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    common: list[str],
    steps: tuple[int, ...],
) -> None:
    whole = left_alone(*common)
    common = [*_STATEFUL, "trainer.max_epochs=2", *common]
    for number, after in enumerate(steps):
        with monkeypatch.context() as patch:
            patch.setattr(StackedOptimizer, "__call__", _interrupting(StackedOptimizer.__call__, after=after))
            with pytest.raises(Interrupted):
                together(*_THREE, common=common, resume=number > 0)
    together(*_THREE, common=common, resume=True)
    assert [remains(tmp_path / "together" / str(number)) for number in range(len(_THREE))] == whole


@pytest.mark.extra
@pytest.mark.parametrize("saves", [1, 4])
def test_a_population_killed_while_it_saves_resumes_where_all_members_stood(
    together: Callable[..., list[Member]],
    left_alone: Callable[..., list[dict[str, Any]]],
    remains: Remains,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saves: int,
) -> None:
    whole = left_alone("model.hidden=[8]")
    common = [*_STATEFUL, "trainer.max_epochs=2", "model.hidden=[8]"]
    save_epoch, calls = Member.save_epoch, itertools.count()

    def killed(member: Member, *arguments: Any, **named: Any) -> None:
        if next(calls) >= saves:
            raise SystemExit
        save_epoch(member, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Member, "save_epoch", killed)
        with pytest.raises(SystemExit):
            together(*_THREE, common=common)
    together(*_THREE, common=common, resume=True)
    assert [remains(tmp_path / "together" / str(number)) for number in range(len(_THREE))] == whole


def test_a_long_epoch_saves_checkpoints_within(
    together: Callable[..., list[Member]], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, bool]] = []

    def note(member: Member, position: Position, state: Any, *, best: bool) -> None:
        saved.append((position.step, best))

    monkeypatch.setattr(Member, "save", note)
    together(["seed=0"], common=["checkpoint.every_minutes=1e-9", "trainer.chunk_length=2", "trainer.max_epochs=1"])
    assert saved == [(2, False), (4, False), (0, True), (0, False)]
