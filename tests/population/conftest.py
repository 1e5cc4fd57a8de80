"""Fixtures that train small populations with the real configuration, and solo runs to compare them with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from digitlab.config.compose import compose
from digitlab.core.signals import StopSignal
from digitlab.engine import fused_calls
from digitlab.engine.aot_cache import CompiledCall, FlatFunction
from digitlab.population.grouping import align_starts
from digitlab.population.job import Job
from digitlab.population.member import Member
from digitlab.population.trainer import Population
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import Outcome, train
from digitlab.training.experiment import Experiment

SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=3",
    "trainer.precision=64",
    "trainer.limit_test_batches=2",
    "early_stopping=null",
    "data.train_size=150",
    "data.val_size=50",
    "data.batch_size=32",
    "test=none",
)


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., list[Member]]:
    """``together(["seed=0", ...], ["seed=1", ...])`` trains a member for each list and returns them in that order.

    With ``resume`` unfinished runs resume from their last checkpoints.
    """

    def run(*jobs: Sequence[str], common: Sequence[str] = (), resume: bool = False) -> list[Member]:
        made = []
        for number, overrides in enumerate(jobs):
            typed = [*common, *overrides]
            config = compose([*SMALL, *typed])
            folder = RunFolder(tmp_path / "together" / str(number))
            if resume and folder.result.exists() and folder.read_result()["status"] == "finished":
                continue
            folder.path.mkdir(parents=True, exist_ok=resume)
            experiment = Experiment.from_config(config, typed=typed)
            checkpoint = read_checkpoint(folder.last) if resume and folder.last.exists() else None
            made.append(
                Job(
                    number=number,
                    config=config,
                    experiment=experiment,
                    folder=folder,
                    overrides=typed,
                    checkpoint=checkpoint,
                )
            )
        stop_signal = StopSignal()
        population = Population(
            align_starts(made) if resume else made, device=torch.device("cpu"), stop_signal=stop_signal
        )
        with stop_signal:
            population.train()
        return sorted(population.all_members, key=lambda member: member.job.number)

    return run


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., Outcome]:
    """``alone("seed=0", ...)`` trains a solo run of the same configuration, in a new folder or in ``folder``."""

    def run(*overrides: str, folder: Path | None = None, resume: bool = False) -> Outcome:
        folder = folder or tmp_path / "alone" / str(len(list(tmp_path.glob("alone/*"))))
        return train(compose([*SMALL, *overrides]), folder=folder, overrides=overrides, resume=resume)

    return run


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """``compile=true`` runs the function without compiling it; the list gets the number of members of each call."""
    calls: list[int] = []

    def as_it_is(function: Callable[[int], FlatFunction], *_: Any, steps: int, **__: Any) -> CompiledCall:
        def call(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            calls.append(len(tensors[0]))
            return list(function(steps)(*tensors))

        return call

    monkeypatch.setattr(fused_calls, "compile_or_load", as_it_is)
    return calls
