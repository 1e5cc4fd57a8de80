"""A member of a population writes the same TensorBoard events as its solo run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Events = dict[str, list[tuple[int, bytes]]]


@pytest.fixture
def both(
    together: Callable[..., Any], alone: Callable[..., Any], remains: Callable[[Path], dict[str, Any]]
) -> Callable[..., tuple[Events, Events]]:
    """``both("key=value", ...)`` is what a member with these overrides and its solo run sent, by subfolder and tag."""

    def run(*overrides: str) -> tuple[Events, Events]:
        common = ("test=best", "model.hidden=[8]", "trainer.max_epochs=2", "ema.decay=0.9")
        # The other member ends after one epoch, so it sends fewer events.
        member = together(["trainer.max_epochs=1"], ["seed=1", *overrides], common=common)[1]
        left = [remains(folder) for folder in (member.job.folder.path, alone(*common, "seed=1", *overrides).folder)]
        ours, theirs = ({tag: sent for tag, sent in each.items() if ":" in tag} for each in left)
        return ours, theirs

    return run


@pytest.mark.extra
@pytest.mark.parametrize(
    "overrides", [[], ["test=none"], ["figures.each_epoch=true", "trainer.max_epochs=1"]], ids=" ".join
)
def test_a_member_writes_the_same_events_as_its_solo_run(both: Callable[..., Any], overrides: list[str]) -> None:
    ours, theirs = both(*overrides)
    assert {tag: [step for step, _ in sent] for tag, sent in ours.items()} == {
        tag: [step for step, _ in sent] for tag, sent in theirs.items()
    }
    tested = "test=none" not in overrides
    assert (".:confusion_matrix" in ours, ".:samples" in ours) == (tested, True)
    for tag in (".:samples", ".:confusion_matrix") if tested else (".:samples",):
        assert ours[tag] == theirs[tag]
    assert any(tag.startswith(".:each_epoch/") for tag in ours) == ("figures.each_epoch=true" in overrides)
