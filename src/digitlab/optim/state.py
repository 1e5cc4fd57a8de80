"""What update rules remember, and the same as ``torch.optim`` lays it out in checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.optim.broadcast import Number, is_on

RuleName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "muon"]

# What its torch optimiser keeps for each parameter, apart from the step and a buffer for a momentum that may be off.
_ENTRIES: Mapping[RuleName, tuple[str, ...]] = {
    "sgd": (),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "rmsprop": ("square_avg",),
    "adagrad": ("sum",),
    "muon": ("momentum_buffer",),
}
_OPTIONAL_MOMENTUM = ("sgd", "rmsprop")
_WITHOUT_STEP = ("sgd", "muon")


class RuleState(NamedTuple):
    """What a rule remembers from one update to the next.

    ``step``: number of updates made, without dimensions. ``entries``: under each name that the torch optimiser uses,
    one tensor a parameter, shaped like it, zero at first.
    """

    step: Tensor
    entries: dict[str, list[Tensor]]


def entry_names(rule: RuleName, *, momentum: Number = 0.0) -> tuple[str, ...]:
    """What is remembered of each parameter; ``momentum`` decides whether there is a buffer where it may be off."""
    with_buffer = rule in _OPTIONAL_MOMENTUM and is_on(momentum)
    return (*_ENTRIES[rule], "momentum_buffer") if with_buffer else _ENTRIES[rule]


def counts_steps(rule: RuleName) -> bool:
    """Whether the torch optimiser keeps the number of updates beside the entries of each parameter."""
    return rule not in _WITHOUT_STEP


def init_state(rule: RuleName, parameters: Sequence[Tensor], *, momentum: Number = 0.0) -> RuleState:
    """The state before the first update, with what ``entry_names`` says."""
    names = entry_names(rule, momentum=momentum)
    step = torch.zeros((), dtype=_step_dtype(parameters[0].device), device=parameters[0].device)
    return RuleState(step, {name: [torch.zeros_like(p, requires_grad=False) for p in parameters] for name in names})


def to_optimizer_state(rule: RuleName, state: RuleState, *, member: int | None = None) -> dict[int, dict[str, Tensor]]:
    """``state`` as the ``"state"`` of the torch optimiser's ``state_dict``: of a solo run, or of one member.

    The parameters are numbered in the order in which the rule was given them. The tensors are copies.
    """
    entries = {}
    for i, tensors in enumerate(zip(*state.entries.values(), strict=True)):
        own = (tensor if member is None else tensor[member] for tensor in tensors)
        entries[i] = {name: tensor.clone() for name, tensor in zip(state.entries, own, strict=True)}
        if counts_steps(rule):
            entries[i]["step"] = state.step.to(torch.float32, copy=True)
    return entries


def from_optimizer_state(
    rule: RuleName, entries: Mapping[int, Mapping[str, Tensor]], parameters: Sequence[Tensor], *, momentum: Number = 0.0
) -> RuleState:
    """The way back from ``to_optimizer_state`` for the ``parameters`` of a solo run; the tensors are copies.

    Without entries it is the state before the first update.
    """
    state = init_state(rule, parameters, momentum=momentum)
    for i, entry in entries.items():
        for name, tensors in state.entries.items():
            tensors[i].copy_(entry[name])
        if "step" in entry:
            state.step.copy_(entry["step"])
    return state


def _step_dtype(device: torch.device) -> torch.dtype:
    """float64, for the sake of Adam's bias corrections; Apple's devices have none."""
    return torch.float64 if abilities(device).float64 else torch.float32
