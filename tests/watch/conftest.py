"""Run folders that look as if a training had just written them, without any training."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from digitlab.config.compose import compose
from digitlab.results.folder import RunFolder
from digitlab.sweeps.manifest import add_jobs, create
from digitlab.watch.laboratory import Laboratory

composed = cache(lambda: compose(["trainer.max_epochs=5"]))


def configured(overrides: Sequence[str]) -> DictConfig:
    """The configuration with these values; composing it for each run would take 0.1 s."""
    return OmegaConf.merge(composed(), OmegaConf.from_dotlist(list(overrides)))


@pytest.fixture
def begin_run() -> Callable[..., RunFolder]:
    """``begin_run(folder, "seed=1")`` writes the folder of a run that has just begun, with five epochs to train."""

    def begin(path: Path, *overrides: str) -> RunFolder:
        run = RunFolder(path)
        run.config.parent.mkdir(parents=True)
        OmegaConf.save(composed(), run.config)
        run.overrides_file.write_text(json.dumps(overrides))
        choices = {"data": "mnist", "model": "mlp", "hydra/launcher": "vectorized"}
        OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, run.config.parent / "hydra.yaml")
        return run

    return begin


@pytest.fixture
def begin_sweep(begin_run: Callable[..., RunFolder]) -> Callable[..., list[RunFolder]]:
    """``begin_sweep(folder, [("seed=0",), ("seed=1",)])`` writes a sweep whose runs have just begun."""

    def begin(path: Path, jobs: list[tuple[str, ...]], *, begun: int | None = None) -> list[RunFolder]:
        path.mkdir(parents=True)
        create(path, sorted({override.partition("=")[0] for job in jobs for override in job}))
        names = add_jobs(path, [(configured(job), job) for job in jobs])
        return [begin_run(path / name, *job) for name, job in list(zip(names, jobs, strict=True))[:begun]]

    return begin


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """``look(laboratory, since=3)`` is ``laboratory.changes(since=3)`` after a look that does not wait for its time."""

    def changes(laboratory: Laboratory, **asked: Any) -> dict[str, Any]:
        laboratory._next_scan_at = 0.0
        return laboratory.changes(**asked)

    return changes
