"""A population chooses its threads by the work of all members it began with."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from digitlab.core.signals import Interrupted
from digitlab.engine.stacked_runner import StackedRunner


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """On a machine on which torch would use four: of each chunk the members that learn, and on how many threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    found: list[tuple[int, int]] = []
    run_chunk = StackedRunner.run_chunk

    def counted(self: StackedRunner, *arguments: Any, **named: Any) -> Any:
        found.append((len(self.stack.parameters[0]), torch.get_num_threads()))
        return run_chunk(self, *arguments, **named)

    monkeypatch.setattr(StackedRunner, "run_chunk", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield found
    torch.set_num_threads(before)


# A member's forward pass of a mini-batch takes 3.3 million operations; a thread is worth waking for 2.
_COMMON = ("model.hidden=[64]", "trainer.max_epochs=2", "trainer.precision=32")


@pytest.mark.extra
def test_the_number_of_threads_stays_when_members_leave(
    together: Callable[..., Any], counts: list[tuple[int, int]]
) -> None:
    together(*[[f"seed={seed}", "trainer.max_epochs=1"] for seed in range(7)], ["seed=7"], common=_COMMON)
    assert set(counts) == {(8, 4), (1, 4)}
    assert torch.get_num_threads() == 4


@pytest.mark.extra
def test_a_resumed_population_keeps_its_number_of_threads(
    together: Callable[..., Any], counts: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [*[[f"seed={seed}", "trainer.max_epochs=1"] for seed in range(7)], ["seed=7"]]
    with monkeypatch.context() as patch:
        patch.setattr(StackedRunner, "run_chunk", _interrupting(StackedRunner.run_chunk, members=1))
        with pytest.raises(Interrupted):
            together(*jobs, common=_COMMON)
    counts.clear()
    together(*jobs, common=_COMMON, resume=True)
    assert set(counts) == {(1, 4)}


def _interrupting(run_chunk: Callable[..., Any], *, members: int) -> Callable[..., Any]:
    """``run_chunk``, before which a signal comes once so many are left."""

    def interrupted(self: StackedRunner, *arguments: Any, **named: Any) -> Any:
        if len(self.stack.parameters[0]) == members:
            os.kill(os.getpid(), signal.SIGTERM)
        return run_chunk(self, *arguments, **named)

    return interrupted


def test_a_small_population_trains_on_one_thread(together: Callable[..., Any], counts: list[tuple[int, int]]) -> None:
    together(["seed=0"], common=_COMMON)
    assert set(counts) == {(1, 1)}
