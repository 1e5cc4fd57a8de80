"""The estimates of a dry run that need no sweep."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from omegaconf import DictConfig

from digitlab.core.abilities import ABILITIES
from digitlab.sweeps import dry_run


def test_the_measured_memory_includes_that_of_a_gpu(
    shrunk: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shrunk("model=linear", "data.train_size=200", "data.val_size=100")
    monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], peak_memory=lambda device: 5 << 20))
    assert re.fullmatch(r"\d+ MiB and 5 MiB of the GPU's memory", dry_run._measure(config)[1])
    monkeypatch.undo()
    assert re.fullmatch(r"\d+ MiB", dry_run._measure(config)[1])


def test_only_the_beginning_of_a_run_is_measured(shrunk: Callable[..., DictConfig]) -> None:
    sizes = ("model=linear", "data.train_size=200", "data.val_size=100")
    result, _ = dry_run._measure(shrunk(*sizes, "trainer.max_epochs=3", "test=best"))
    assert result["epochs"] == 1
    assert not any(name.startswith("test/") for name in result["metrics"])
