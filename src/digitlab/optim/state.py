"""The state of the update rules in ``functional``, and its conversion to the form of ``torch.optim`` in checkpoints.

``engine`` uses it, so that eager runs, compiled runs and members of populations (networks that are trained together,
with stacked tensors) can resume each other's checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.optim.broadcast import Number, is_on

RuleName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "muon"]

# The names of the tensors that the optimizer of ``torch.optim`` keeps for each parameter. Two kinds are left out: the
# number of updates, and the momentum buffer of optimizers in which momentum can be switched off.
_ENTRIES: Mapping[RuleName, tuple[str, ...]] = {
    "sgd": (),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "rmsprop": ("square_avg",),
    "adagrad": ("sum",),
    "muon": ("momentum_buffer",),
}
_OPTIONAL_MOMENTUM = ("sgd", "rmsprop")
# The optimizers of ``torch.optim`` that do not count their updates.
_WITHOUT_STEP = ("sgd", "muon")


class RuleState(NamedTuple):
    """The state that an update rule carries from one update to the next.

    ``step`` is a scalar tensor, the number of updates so far. ``entries`` has, under each name that ``torch.optim``
    uses, one tensor for each parameter, of the parameter's shape and initially zero.
    """

    step: Tensor
    entries: dict[str, list[Tensor]]


def entry_names(rule: RuleName, *, momentum: Number = 0.0) -> tuple[str, ...]:
    """Return the names of the tensors that ``rule`` keeps for each parameter.

    ``momentum`` decides whether rules with optional momentum have a buffer.
    """
    with_buffer = rule in _OPTIONAL_MOMENTUM and is_on(momentum)
    return (*_ENTRIES[rule], "momentum_buffer") if with_buffer else _ENTRIES[rule]


def counts_steps(rule: RuleName) -> bool:
    """Return whether the torch.optim optimizer stores the number of updates with each parameter."""
    return rule not in _WITHOUT_STEP


def init_state(rule: RuleName, parameters: Sequence[Tensor], *, momentum: Number = 0.0) -> RuleState:
    """Return the state before the first update, with the tensors of ``entry_names``, on the parameters' device."""
    names = entry_names(rule, momentum=momentum)
    device = parameters[0].device
    # In float64, the bias corrections of Adam, which are computed from the number of updates, are exact.
    step = torch.zeros((), dtype=abilities(device).widest_float, device=device)
    return RuleState(step, {name: [torch.zeros_like(p, requires_grad=False) for p in parameters] for name in names})


def to_optimizer_state(rule: RuleName, state: RuleState, *, member: int | None = None) -> dict[int, dict[str, Tensor]]:
    """Return ``state`` in the form of ``"state"`` in the ``state_dict`` of a torch.optim optimizer.

    ``member`` selects a member of a population, whose tensors are stacked as (M, ...); None is for the state of a
    single network. Parameters are numbered in the order in which the rule takes them. All tensors are copies.
    """
    entries = {}
    for i, tensors in enumerate(zip(*state.entries.values(), strict=True)):
        member_tensors = (tensor if member is None else tensor[member] for tensor in tensors)
        entries[i] = {name: tensor.clone() for name, tensor in zip(state.entries, member_tensors, strict=True)}
        if counts_steps(rule):
            entries[i]["step"] = state.step.to(torch.float32, copy=True)
    return entries
