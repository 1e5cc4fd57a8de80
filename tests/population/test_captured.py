"""Populations with CUDA graphs equal their solo runs; a stand-in takes the place of the graphs."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted
from digitlab.engine.fused_calls import FusedCalls
from digitlab.population import trainer as population
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

Together = Callable[..., Any]
# 21 mini-batches an epoch, 16 of them in calls.
SHORT = ("model.hidden=[8]", "data.train_size=210", "data.batch_size=10")
JOBS = (["seed=0"], ["optimizer.lr=0.02", "seed=0"], ["optimizer.lr=0.05", "seed=3", "trainer.max_epochs=2"])
RUNS = (
    "optimizer=sgd optimizer.weight_decay=1e-3 loss=mse loss.output=sigmoid model.activation=sigmoid",
    "model=mlp_dropout optimizer=adamw optimizer.weight_decay=0.01 ema.decay=0.99 loss.label_smoothing=0.1 "
    "loss.class_weights={3:5}",
    "model.batch_norm=true augment=[shift,mixup] trainer.gradient_clip_norm=0.5 scheduler=cosine "
    "loss.class_weights=balanced",
    "optimizer=muon optimizer.weight_decay=0.1 optimizer.sgd_weight_decay=0.01 ema.decay=0.9",
)


def _difference(member: Any, solo: Any) -> float:
    """Of the weights of two runs at their end, relative to the largest of each tensor."""
    own, other = (read_checkpoint(folder.last)["state_dict"] for folder in (member.job.folder, RunFolder(solo.folder)))
    assert own.keys() == other.keys()
    pairs = [(own[name].double(), other[name].double()) for name in other]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)


@pytest.mark.sample(4)
@pytest.mark.parametrize("overrides", RUNS)
def test_captured_members_equal_their_solo_runs_also_after_some_have_left(
    together: Together, alone: Callable[..., Any], captured: list[str], overrides: str
) -> None:
    common = [*SHORT, *overrides.split()]
    for member, job in zip(together(*JOBS, common=common)[1:], JOBS[1:], strict=True):
        assert _difference(member, alone(*common, *job, "trainer.cuda_graphs=false")) <= 1e-8
    # In each of two epochs, for all streams together: two calls of eight updates, and five of one. Each of the two
    # graphs has a trial replay. Too few steps are left to capture again when a member has left.
    assert len(captured) == 2 * (2 + 5) + 2


def test_a_captured_population_resumes_to_the_same_bits(
    together: Together,
    remains: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    interrupting: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    captured: list[str],
) -> None:
    common = [*SHORT, "model.dropout=0.2", "trainer.chunk_length=16"]
    whole = [remains(member.job.folder.path) for member in together(*JOBS, common=common)]
    (tmp_path / "together").rename(tmp_path / "whole")
    # What is made ready for the trial, for the first call, and for the second one, after which it stops.
    monkeypatch.setattr(FusedCalls, "inputs", interrupting(FusedCalls.inputs, at=3))
    with pytest.raises(Interrupted):
        together(*JOBS, common=common)
    members = together(*JOBS, common=common, resume=True)
    assert [remains(member.job.folder.path) for member in members] == whole
    assert captured


def test_a_diverging_member_fails_like_its_solo_run_and_the_others_do_not_change(
    together: Together, alone: Callable[..., Any], captured: list[str]
) -> None:
    common = [*SHORT, "optimizer=sgd", "loss=mse", "loss.output=raw"]
    jobs = [["optimizer.lr=0.01"], ["optimizer.lr=1e20"]]
    good, bad = together(*jobs, common=common)
    with pytest.raises(RunError) as solo:
        alone(*common, *jobs[1], "trainer.cuda_graphs=false")
    assert str(bad.outcome) == str(solo.value)
    assert _difference(good, alone(*common, *jobs[0], "trainer.cuda_graphs=false")) <= 1e-8
    assert captured


@pytest.mark.extra
def test_a_failed_capture_is_logged_once_and_the_population_trains_eagerly(
    together: Together,
    alone: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(work: Callable[[], list[Tensor]]) -> None:
        work()
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(population, "graph_capture_for", lambda device, allowed: fail)
    members = together(*JOBS, common=SHORT)
    assert _difference(members[1], alone(*SHORT, *JOBS[1])) <= 1e-8
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["CUDA graph: OutOfMemoryError: CUDA out of memory; training without"]
