"""A population that runs out of memory is split in two, and its runs end as they would have without that."""

import itertools
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from digitlab.config.compose import compose
from digitlab.population import train as module
from digitlab.population.job import Job
from digitlab.population.member import Member
from digitlab.population.trainer import Population
from digitlab.results.folder import RunFolder
from digitlab.training.experiment import Experiment

_SMALL = ("trainer=cpu", "trainer.max_epochs=2", "data.train_size=100", "data.val_size=50", "test=none")


@pytest.fixture
def four(tmp_path: Path) -> Callable[..., list[Job]]:
    """``four("name")`` are the jobs of four seeds, whose folders lie in ``tmp_path/name``."""

    def make(name: str, *overrides: str) -> list[Job]:
        jobs = []
        for number in range(4):
            typed = (*_SMALL, f"seed={number}", *overrides)
            config, folder = compose(typed), RunFolder(tmp_path / name / str(number))
            folder.path.mkdir(parents=True)
            experiment = Experiment.from_config(config, typed=typed)
            jobs.append(Job(number=number, config=config, experiment=experiment, folder=folder, overrides=[]))
        return jobs

    return make


def _all_finished(jobs: list[Job], done: list[tuple[Job, Exception | None]]) -> bool:
    ended = [(job.number, error) for job, error in done]
    assert all(error is None for _, error in done), done
    status = {job.folder.read_result()["status"] for job in jobs}
    return sorted(ended) == [(number, None) for number in range(4)] and status == {"finished"}


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("too many"),
        RuntimeError("can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_a_population_that_runs_out_of_memory_is_halved(
    error: Exception, monkeypatch: pytest.MonkeyPatch, four: Callable[..., list[Job]]
) -> None:
    sizes, tried = [], []

    class Large(Population):
        def train(self) -> None:
            # Before its halves are trained it has gone.
            assert not any(reference() for reference in tried)
            tried.append(weakref.ref(self))
            sizes.append(len(self.members))
            if len(self.members) > 2:
                raise type(error)(*error.args)
            super().train()

    monkeypatch.setattr(module, "Population", Large)
    jobs = four("runs", "model.hidden=[4]")
    assert _all_finished(jobs, module.train_together(jobs))
    assert sizes == [4, 2, 2]


@pytest.mark.sample(3)
# Nobody has been saved; two after the first epoch; all of them then, and two after the second.
@pytest.mark.extra
@pytest.mark.parametrize("saved", [0, 2, 6])
def test_halves_continue_from_where_the_whole_population_was_last_saved(
    saved: int,
    monkeypatch: pytest.MonkeyPatch,
    four: Callable[..., list[Job]],
    remains: Callable[[Path], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    save, calls = Member.save_epoch, itertools.count()

    def scarce(member: Member, *arguments: Any, **named: Any) -> None:
        if saved <= next(calls) < saved + 2:
            raise MemoryError
        save(member, *arguments, **named)

    whole, jobs = (four(name, "model.hidden=[4]", "trainer.precision=64") for name in ("whole", "halved"))
    module.train_together(whole)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Member, "save_epoch", scarce)
        assert _all_finished(jobs, module.train_together(jobs))
    halved = [message for message in caplog.messages if "halved" in message]
    assert halved == ["a population of 4 needs too much memory: it is halved"]
    for one, other in zip(whole, jobs, strict=True):
        left, expected = remains(other.folder.path), remains(one.folder.path)
        assert left.keys() == expected.keys()
        events = [name for name in left if name.startswith((".:", "train:", "val:"))]
        assert [[step for step, _ in left[name]] for name in events] == [
            [step for step, _ in expected[name]] for name in events
        ]
        assert other.folder.read_result()["metrics"] == pytest.approx(one.folder.read_result()["metrics"])
