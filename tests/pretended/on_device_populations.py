"""Populations on the pretended device: stacked networks of both kinds, members that leave, resuming, tests and figures.

Their members equal those on the CPU up to rounding, and the host does not wait for the device within a chunk.
``test_on_device.py`` runs this module in a process of its own.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from digitlab.config.compose import compose
from digitlab.core.errors import RunError
from digitlab.core.signals import StopSignal
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.stacked_runner import StackedRunner
from digitlab.engine.vmap_stack import VmapStack
from digitlab.figures.gallery import FIGURES
from digitlab.population.grouping import align_starts
from digitlab.population.job import Job
from digitlab.population.trainer import Population
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.experiment import Experiment
from fixtures.pretended_device import DEVICE, watched

_SMALL = (
    "trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=2", "trainer.precision=64", "early_stopping=null",
    "trainer.limit_test_batches=2", "data.train_size=160", "data.val_size=50", "data.batch_size=20", "test=none",
    "trainer.chunk_length=8",
)  # fmt: skip
_CPU = torch.device("cpu")
_MLP = ("model=mlp", "model.hidden=[8]")


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., Population]:
    """``together(["seed=0"], ["seed=1"], device=DEVICE)`` trains a member for each list and returns the population.

    With ``resume`` the members of the last population resume from their checkpoints.
    """
    names = itertools.count()

    def run(*jobs: Sequence[str], device: torch.device, common: Sequence[str] = (), resume: bool = False) -> Population:
        place = tmp_path / str(next(names) - resume)
        made = []
        for number, overrides in enumerate(jobs):
            typed = [*common, *overrides]
            config = compose([*_SMALL, *typed])
            folder = RunFolder(place / str(number))
            folder.path.mkdir(parents=True, exist_ok=resume)
            made.append(
                Job(
                    number=number, config=config, experiment=Experiment.from_config(config, typed=typed), folder=folder,
                    overrides=typed, checkpoint=read_checkpoint(folder.last) if resume else None,
                )
            )  # fmt: skip
        stop_signal = StopSignal()
        population = Population(align_starts(made) if resume else made, device=device, stop_signal=stop_signal)
        with stop_signal:
            population.train()
        return population

    return run


def _folders(population: Population) -> list[RunFolder]:
    return [member.job.folder for member in sorted(population.all_members, key=lambda member: member.job.number)]


def _assert_close(one: Population, other: Population) -> None:
    for own, others in zip(_folders(one), _folders(other), strict=True):
        assert own.read_result()["status"] == others.read_result()["status"]
        assert own.last.exists() == others.last.exists()
        if not own.last.exists():  # it failed before the first was written
            continue
        here, there = read_checkpoint(own.last), read_checkpoint(others.last)
        torch.testing.assert_close(here["state_dict"], there["state_dict"], rtol=1e-8, atol=1e-10)
        assert here["metrics"] == pytest.approx(there["metrics"])
        assert here["global_step"] == there["global_step"]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Counter[str]]]:
    """Counts where the host waits in each chunk ("run_chunk") and each evaluation ("evaluate") of a population."""
    found: dict[str, list[Counter[str]]] = {}

    def watch(name: str) -> None:
        method = getattr(StackedRunner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            with watched() as counter:
                result = method(*arguments, **named)
            if arguments[0].networks.device == DEVICE:
                found.setdefault(name, []).append(counter)
            return result

        monkeypatch.setattr(StackedRunner, name, counted)

    for name in ("run_chunk", "evaluate"):
        watch(name)
    return found


def _reads(counters: Sequence[Counter[str]]) -> int:
    return sum(number for counter in counters for name, number in counter.items() if name.startswith("read"))


POPULATIONS = {
    "dense": (DenseStack, (*_MLP, "optimizer=adam")),
    "dense with all": (
        DenseStack,
        (
            "model=mlp_dropout", "model.hidden=[8]", "optimizer=sgd", "optimizer.momentum=0.9", "ema.decay=0.9",
            "trainer.gradient_clip_norm=1", "scheduler=cosine", "augment=[shift,cutout]",
        ),
    ),
    "mapped": (VmapStack, ("model=cnn", "model.width=2", "optimizer=muon")),
}  # fmt: skip


@pytest.mark.parametrize("capturing", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize(("kind", "common"), POPULATIONS.values(), ids=POPULATIONS)
def test_members_equal_those_on_the_cpu_and_a_chunk_does_not_wait_for_the_device(
    together: Callable[..., Population],
    waits: dict[str, list[Counter[str]]],
    captured: list[str],
    kind: type,
    common: tuple[str, ...],
    capturing: bool,
) -> None:
    jobs = ["seed=0"], ["seed=0", "optimizer.lr=0.01"], ["seed=1"]
    expected = together(*jobs, device=_CPU, common=(*common, "trainer.cuda_graphs=false"))
    found = together(*jobs, device=DEVICE, common=(*common, f"trainer.cuda_graphs={capturing}"))
    assert isinstance(found._runner.stack, kind)
    assert bool(captured) == capturing
    _assert_close(found, expected)
    assert len(waits["run_chunk"]) == 2
    assert _reads(waits["run_chunk"]) == 0
    # The sums of all members' losses, once for all batches.
    assert _reads(waits["evaluate"]) == len(waits["evaluate"])


def test_members_that_end_or_fail_do_not_change_the_others(together: Callable[..., Population]) -> None:
    jobs = ["trainer.max_epochs=1"], ["trainer.max_epochs=3"], ["optimizer.lr=1e308"], ["seed=1"]
    common = (*_MLP, "optimizer=sgd", "loss=mse", "loss.output=raw")
    expected, found = (together(*jobs, device=device, common=common) for device in (_CPU, DEVICE))
    outcomes = [member.outcome for member in sorted(found.all_members, key=lambda member: member.job.number)]
    assert [isinstance(outcome, RunError) for outcome in outcomes] == [False, False, True, False]
    _assert_close(found, expected)


def test_a_resumed_population_ends_like_an_uninterrupted_one(
    together: Callable[..., Population], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = ["seed=0"], ["seed=1"]
    common = (*_MLP, "optimizer=adam", "trainer.chunk_length=4")
    expected = together(*jobs, device=DEVICE, common=common)

    # Within an epoch, whose counts so far are in the checkpoints.
    class Killed(Exception):
        pass

    def save_and_die(population: Population) -> None:
        population._save(
            lambda member: member.save(population.position, population._optimizer_state(member), best=False)
        )
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Population, "_between_chunks", save_and_die)
        with pytest.raises(Killed):
            together(*jobs, device=DEVICE, common=common)
    saved = together(*jobs, device=DEVICE, common=common, resume=True)
    _assert_close(saved, expected)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture of the layers, one of the weights and one of the scores: all take a minute."""
    for name in FIGURES.keys() - {"network_layers", "weights_outputs", "confusion_matrix"}:
        monkeypatch.delitem(FIGURES, name)


@pytest.mark.usefixtures("few_pictures")
def test_test_metrics_and_figures_equal_those_on_the_cpu(together: Callable[..., Population]) -> None:
    common = (*_MLP, "test=best", "figures.each_epoch=true", "trainer.max_epochs=1")
    populations = [together(["seed=0"], ["seed=1"], device=device, common=common) for device in (_CPU, DEVICE)]
    for here, there in zip(*map(_folders, populations), strict=True):
        expected, found = here.read_result()["metrics"], there.read_result()["metrics"]
        assert "test/calibration_error" in found
        assert found == pytest.approx(expected)
