"""A member of a population ends with what its solo run ends with, in float64 to 1e-8."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

_MLP = ("model=mlp", "model.hidden=[12,8]")
# Two settings with two seeds each, so that streams and settings both matter.
_TWO = (["optimizer.lr=0.02", "seed=0"], ["optimizer.lr=0.05", "seed=0"], ["optimizer.lr=0.05", "seed=3"])
_RELATIVE = 1e-8


def _difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two states of weights, relative to each tensor's largest entry."""
    assert one.keys() == other.keys()
    pairs = [(one[name].double(), other[name].double()) for name in one]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)


def _hold(together: Callable[..., Any], alone: Callable[..., Any], jobs: Sequence[list[str]], *common: str) -> None:
    for member, job in zip(together(*jobs, common=common), jobs, strict=True):
        solo = alone(*common, *job)
        for which in ("last", "best"):
            ours, theirs = (read_checkpoint(getattr(f, which)) for f in (member.job.folder, RunFolder(solo.folder)))
            assert _difference(ours["state_dict"], theirs["state_dict"]) <= _RELATIVE
        assert member.outcome == pytest.approx(solo.monitored, rel=1e-8)


@pytest.mark.parametrize(
    "optimizer",
    [
        ["optimizer=sgd"],
        ["optimizer=sgd", "optimizer.momentum=0.9"],
        ["optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"],
        ["optimizer=adam"],
        ["optimizer=adamw"],
        ["optimizer=rmsprop"],
        ["optimizer=rmsprop", "optimizer.momentum=0.5"],
        ["optimizer=adagrad"],
    ],
    ids=" ".join,
)
def test_a_member_equals_its_solo_run_under_every_rule(
    together: Callable[..., Any], alone: Callable[..., Any], optimizer: list[str]
) -> None:
    jobs = [*_TWO, ["optimizer.lr=0.01", "optimizer.weight_decay=0.1", "seed=3"]]
    _hold(together, alone, jobs, *_MLP, *optimizer)
