"""In float32 a member and its solo run add up in different orders: what still has to agree, and how closely."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

_SINGLE = ("trainer.precision=32", "optimizer=sgd", "data.batch_size=30")
_RELATIVE = 1e-5


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(folder.last)["state_dict"]
    return weights


# Batch norm's backward pass is a difference of nearly equal sums over images and pixels: it keeps fewer digits.
@pytest.mark.parametrize(
    ("model", "relative"), [("model=mlp", _RELATIVE), ("model=lenet", _RELATIVE), ("model=cnn", 100 * _RELATIVE)]
)
def test_the_gradients_of_one_step_agree(
    together: Callable[..., Any], alone: Callable[..., Any], model: str, relative: float
) -> None:
    # At a rate of 1 a step takes the gradient off the weights; at one of nearly 0 they stay what they were.
    common = [*_SINGLE, model, "trainer.max_steps=1"]
    _, member = together(["seed=1"], ["optimizer.lr=1.0"], common=common)
    ours = _weights(member.job.folder)
    solo, before = (_weights(RunFolder(alone(*common, f"optimizer.lr={lr}").folder)) for lr in (1.0, 1e-30))
    for name, parameter in member.classifier.named_parameters():
        gradient = before[name] - solo[name]
        assert parameter.dtype == torch.float32
        assert (ours[name] - solo[name]).abs().max() <= relative * gradient.abs().max()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_hundred_steps_of_smooth_networks_agree(
    together: Callable[..., Any], alone: Callable[..., Any], activation: str
) -> None:
    common = [*_SINGLE, f"model.activation={activation}", "model.hidden=[16]", "trainer.max_epochs=20"]
    jobs = [["seed=0"], ["seed=0", "optimizer.lr=0.05"], ["seed=1"]]
    members = together(*jobs, common=common)
    solo = _weights(RunFolder(alone(*common, *jobs[1]).folder))
    for name, weight in _weights(members[1].job.folder).items():
        assert (weight - solo[name]).abs().max() <= _RELATIVE * solo[name].abs().max()
