"""How many mini-batches a population trains between two checks, which on a GPU are longer apart."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from digitlab.core.abilities import abilities
from digitlab.data.module import ImageData
from digitlab.population import trainer


@pytest.mark.parametrize(
    ("cuda_graphs", "typed", "expected"),
    [(False, [], 64), (True, [], 256), (True, ["trainer.chunk_length=8"], 8)],
)
def test_chunks_are_longer_on_a_gpu_unless_the_user_sets_their_length(
    together: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cuda_graphs: bool, typed: list[str], expected: int
) -> None:
    lengths, chunks = set(), ImageData.chunks

    def noted(data: ImageData, plan: Any, position: Any) -> Any:
        lengths.add(plan.chunk_length)
        return chunks(data, plan, position)

    monkeypatch.setattr(ImageData, "chunks", noted)
    # Only the population takes the CPU for a device with graphs; its updates are those of a CPU.
    monkeypatch.setattr(trainer, "abilities", lambda device: replace(abilities(device), cuda_graphs=cuda_graphs))
    together(["seed=0"], ["seed=1"], common=["model=linear", "trainer.max_epochs=1", *typed])
    assert lengths == {expected}
