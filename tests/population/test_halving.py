"""Successive halving: which members leave, what their folders contain, and that the others do not change."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from digitlab.core.errors import RunError
from digitlab.population.member import Member
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

_COMMON = ("model=mlp", "model.hidden=[8]", "optimizer=sgd", "trainer.max_epochs=4", "sweep.halving=true")
_RATES = ("0.5", "0.1", "0.02", "0.0001", "1e-9")
_JOBS = [[f"optimizer.lr={rate}", f"seed={seed}"] for rate in _RATES for seed in (0, 1)]

Together = Callable[..., list[Member]]


def _same_weights(one: RunFolder, other: RunFolder) -> None:
    first, second = (read_checkpoint(folder.last)["state_dict"] for folder in (one, other))
    torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-10)


@pytest.fixture
def halved(together: Together) -> dict[str, list[Member]]:
    """The members of each learning rate, of a population of five settings with two seeds."""
    members = together(*_JOBS, common=_COMMON)
    return {rate: members[2 * number : 2 * number + 2] for number, rate in enumerate(_RATES)}


def _left_after(member: Member) -> int | None:
    epoch: int | None = member.job.folder.read_result().get("halved_after_epoch")
    return epoch


@pytest.mark.extra
def test_whole_settings_leave_and_none_is_better_than_one_that_stays(
    halved: dict[str, list[Member]],
) -> None:
    left = {rate: [_left_after(member) for member in members] for rate, members in halved.items()}
    assert all(first == second for first, second in left.values())
    assert sorted(str(first) for first, _ in left.values()) == ["1", "1", "2", "None", "None"]
    for epoch in (1, 2):
        best = {
            rate: sum(max(p.value for p in m.run_state.best_tracker.history[:epoch]) for m in members)
            for rate, members in halved.items()
        }
        leaving = [best[rate] for rate, (after, _) in left.items() if after == epoch]
        staying = [best[rate] for rate, (after, _) in left.items() if after is None or after > epoch]
        assert max(leaving) <= min(staying)
    results = [member.job.folder.read_result() for members in halved.values() for member in members]
    assert {result["status"] for result in results} == {"finished"}
    assert all(result["epochs"] == result.get("halved_after_epoch", 4) for result in results)


@pytest.mark.sample(2)
def test_a_halved_member_equals_its_solo_run_of_as_many_epochs(
    halved: dict[str, list[Member]], alone: Callable[..., Any]
) -> None:
    for rate, (member, _) in halved.items():
        epochs = member.job.folder.read_result()["epochs"]
        solo = alone(*_COMMON, f"optimizer.lr={rate}", "seed=0", f"trainer.max_epochs={epochs}")
        _same_weights(member.job.folder, RunFolder(solo.folder))


@pytest.mark.extra
def test_a_halved_run_can_resume_without_halving(halved: dict[str, list[Member]], alone: Callable[..., Any]) -> None:
    member = next(members[0] for members in halved.values() if _left_after(members[0]) == 1)
    job = [*_COMMON[:-1], *member.job.overrides[len(_COMMON) :]]
    alone(*job, folder=member.job.folder.path, resume=True)
    assert member.job.folder.read_result()["epochs"] == 4
    assert _left_after(member) is None
    _same_weights(member.job.folder, RunFolder(alone(*job).folder))


@pytest.mark.extra
def test_the_halving_epochs_can_be_chosen(together: Together) -> None:
    members = together(*_JOBS[:4], common=(*_COMMON, "sweep.halving_epochs=[3]"))
    assert sorted(str(_left_after(member)) for member in members) == ["3", "3", "None", "None"]


@pytest.mark.extra
def test_a_population_killed_during_halving_resumes_to_the_same_bits(
    together: Together,
    remains: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folders = [member.job.folder.path for member in together(*_JOBS, common=_COMMON)]
    whole = [remains(folder) for folder in folders]
    (tmp_path / "together").rename(tmp_path / "whole")
    finish = Member.finish
    # Before the first of four leaves; when two have left; when one has of the two that leave an epoch later.
    for number, most in enumerate((0, 2, 3)):
        calls = itertools.count()

        def killed(member: Member, measured: Any, most: int = most, calls: Iterator[int] = calls) -> None:
            if next(calls) == most:
                raise SystemExit
            finish(member, measured)

        with monkeypatch.context() as patch:
            patch.setattr(Member, "finish", killed)
            with pytest.raises(SystemExit):
                together(*_JOBS, common=_COMMON, resume=number > 0)
    together(*_JOBS, common=_COMMON, resume=True)
    assert [remains(folder) for folder in folders] == whole


@pytest.mark.extra
def test_a_failed_member_still_counts_in_halving_while_it_is_tried_again(
    together: Together,
    remains: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Of the best setting the last one fails in its second epoch: that setting leaves, its other seed with it.
    jobs, common = _JOBS[:1:-1], (*_COMMON, "trainer.max_epochs=5", "sweep.halving_epochs=[4]")
    end_epoch, killed = Member.end_epoch, False

    def failing(member: Member) -> None:
        if killed and member.plan.position.epoch == 3:
            raise SystemExit
        if member.job.number == len(jobs) - 1 and member.plan.position.epoch == 1:
            member.fail(RunError("it could not go on"))
        else:
            end_epoch(member)

    monkeypatch.setattr(Member, "end_epoch", failing)
    *folders, failed = [member.job.folder for member in together(*jobs, common=common)]
    whole = [remains(folder.path) for folder in folders]
    assert folders[-1].read_result()["halved_after_epoch"] == 4
    (tmp_path / "together").rename(tmp_path / "whole")
    killed = True
    with pytest.raises(SystemExit):
        together(*jobs, common=common)
    killed = False
    # So it is when the next attempt begins, in another process, say.
    failed.result.unlink()
    together(*jobs[:-1], common=common, resume=True)
    assert [remains(folder.path) for folder in folders] == whole
