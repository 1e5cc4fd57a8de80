"""A step gets more threads for more work, never more than there are, and the number is restored afterwards."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.engine.cpu_tuning import threads, worthwhile_threads
from digitlab.training.classifier import Classifier


@pytest.fixture(autouse=True)
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch has four threads, and the user has not chosen a number."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_more_work_gets_more_threads_between_one_and_all():
    counts = [worthwhile_threads(10.0**power) for power in range(16)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 4


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_that_the_user_chose_is_kept(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "4")
    assert worthwhile_threads(1.0) == 4


def test_the_number_of_threads_is_restored_after_an_error():
    with contextlib.suppress(ZeroDivisionError), threads(1):
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("hidden", "expected"), [("[8]", 1), ("[4096]", 4)])
def test_a_step_uses_threads_for_its_work_and_an_evaluation_uses_all(
    hidden: str, expected: int, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    seen: dict[str, set[int]] = {"run_chunk": set(), "_evaluate": set()}

    def watch(cls: type, name: str) -> None:
        method = getattr(cls, name)

        def watched(self: Any, *arguments: Any) -> Any:
            seen[name].add(torch.get_num_threads())
            return method(self, *arguments)

        monkeypatch.setattr(cls, name, watched)

    watch(ChunkRunner, "run_chunk")
    watch(Classifier, "_evaluate")
    run(f"model.hidden={hidden}", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    assert seen == {"run_chunk": {expected}, "_evaluate": {4}}
    assert torch.get_num_threads() == 4
