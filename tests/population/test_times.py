"""The times of members: each has its share of the population's time, and compiling counts for none."""

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from digitlab.engine import fused_calls
from digitlab.population import trainer
from digitlab.population.member import Member

Together = Callable[..., list[Member]]


def test_a_member_has_its_share_of_the_time_and_the_speed_of_the_population(
    together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every block that the population measures takes one second.
    clock = itertools.count()
    seconds = SimpleNamespace(perf_counter=lambda: float(next(clock)), monotonic=time.monotonic)
    monkeypatch.setattr(trainer, "time", seconds)
    members = together(["seed=0"], ["seed=1"], ["seed=2"], common=["model=linear", "trainer.max_epochs=2"])
    population_seconds = next(clock) // 2
    for member in members:
        result, rows = member.job.folder.read_result(), member.run_state.rows
        assert result["train_seconds"] == pytest.approx(population_seconds / 3)
        # 150 images are in the training split: three members see 450 in the time of an epoch.
        speeds = [450 / (3 * row["train_seconds"]) for row in rows]
        assert [row["images_per_second"] for row in rows] == pytest.approx(speeds)


@pytest.mark.extra
def test_compiling_is_no_part_of_the_time_of_a_member(
    together: Together, uncompiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = fused_calls.compile_or_load

    def compile_slowly(*arguments: Any, **named: Any) -> Any:
        time.sleep(4)
        return make(*arguments, **named)

    monkeypatch.setattr(fused_calls, "compile_or_load", compile_slowly)
    small = ["model.hidden=[8]", "data.train_size=210", "data.batch_size=10", "compile=true", "trainer.max_epochs=1"]
    members = together(["seed=0"], ["seed=1"], common=small)
    assert uncompiled, "no call was compiled"
    assert all(0 < member.job.folder.read_result()["train_seconds"] < 2 for member in members)
