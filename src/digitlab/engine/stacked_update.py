"""The update of a population: one rule, and for each member its own numbers and schedule."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from digitlab.engine.fused_arguments import VARIED
from digitlab.optim.broadcast import Number, fit, is_on
from digitlab.optim.functional import CLIP_EPS, RULES, max_ema_decay
from digitlab.optim.optimizers import RULE_OF, Optimizer, of_each
from digitlab.optim.schedules import Schedule
from digitlab.optim.state import RuleName, RuleState, entry_names, init_state, to_optimizer_state


class Rule(NamedTuple):
    """An update rule and its settings for M members: numbers are a float that all share or float64 (M,).

    ``shared`` are those of all parameters; ``of_each`` have one entry a parameter.
    """

    name: RuleName
    shared: dict[str, Any]
    of_each: dict[str, list[Any]]

    @classmethod
    def of(
        cls,
        optimizers: Sequence[Optimizer],
        networks: Sequence[nn.Module],
        *,
        device: torch.device,
        given: bool = False,
    ) -> "Rule":
        """The rule that all of ``optimizers``, one a member, are settings of.

        ``networks`` are the members' own, which say what of them decays. With ``given`` what sweeps are likely to vary
        is a tensor even where all members agree: a compiled rule is then that of other sweeps, too.
        """

        def stack_settings(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            return {
                name: _together([own[name] for own in members], device, given=given and name in VARIED)
                for name in members[0]
            }

        each = [_of_parameters(*own) for own in zip(optimizers, networks, strict=True)]
        settings = [stack_settings(members) for members in zip(*each, strict=True)]
        return cls(
            RULE_OF[type(optimizers[0])],
            stack_settings([optimizer.shared for optimizer in optimizers]),
            {name: [own[name] for own in settings] for name in settings[0]},
        )

    @property
    def plain_descent(self) -> bool:
        """Whether an update is no more than the gradient times the learning rate, and weight decay."""
        return self.name == "sgd" and not is_on(self.shared["momentum"])

    @torch.no_grad()
    def apply(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], state: RuleState, *, rates: Tensor
    ) -> None:
        """One update with learning rates float64 (M,)."""
        RULES[self.name](parameters, gradients, state, lr=rates, **self.shared, **self.of_each)

    def kept(self, parameters: Sequence[Tensor], rates: Tensor) -> list[Tensor | None]:
        """The factor that weight decay multiplies each parameter by at learning rates ``rates``, float64 (M,).

        Shaped (M, 1, ...) to broadcast over the parameter; None for a parameter that no member decays.
        """
        return [
            (1 - rates * decay).to(parameter.dtype).view(-1, *[1] * (parameter.ndim - 1)) if is_on(decay) else None
            for parameter, decay in zip(parameters, self.of_each["weight_decay"], strict=True)
        ]


class Update:
    """Changes stacked ``parameters`` by ``rule``, and says and takes what the solo runs' optimisers would remember.

    ``optimizers`` are the members' own; ``state`` is what the rule remembers.
    """

    def __init__(self, rule: Rule, optimizers: Sequence[Optimizer], parameters: Sequence[Tensor]) -> None:
        self.rule, self.parameters = rule, list(parameters)
        self._optimizers = list(optimizers)
        self.state = init_state(rule.name, self.parameters, momentum=max(map(_momentum, optimizers)))

    def __call__(self, gradients: Sequence[Tensor], rates: Tensor) -> None:
        """One update with learning rates float64 (M,)."""
        self.rule.apply(self.parameters, gradients, self.state, rates=rates)

    def member_state(self, member: int, network: nn.Module) -> dict[int, dict[str, Tensor]]:
        """The ``"state"`` of the torch optimiser that the solo run of ``member`` would have, in its own order."""
        names = entry_names(self.rule.name, momentum=_momentum(self._optimizers[member]))
        order = self._order(member, network)
        own = {name: [self.state.entries[name][place] for place in order] for name in names}
        return to_optimizer_state(self.rule.name, RuleState(self.state.step, own), member=member)

    def load_member(
        self, member: int, network: nn.Module, state: Mapping[int, Mapping[str, Tensor]], *, steps: int
    ) -> None:
        """The way back from ``member_state``; all members have made the same number of ``steps``."""
        self.state.step.fill_(steps)
        order = self._order(member, network)
        for number, entry in state.items():
            for name, tensors in self.state.entries.items():
                if name in entry:
                    tensors[order[number]][member].copy_(entry[name])

    def _order(self, member: int, network: nn.Module) -> list[int]:
        """The places of the parameters in the order in which the optimiser of the solo run has them."""
        places = {id(parameter): place for place, parameter in enumerate(network.parameters())}
        groups = self._optimizers[member].groups(network)
        return [places[id(parameter)] for group in groups for parameter in group["params"]]

    def keep(self, members: Tensor, before: "Update") -> None:
        """Take over the state of those ``members``, int64, of ``before`` that are left here."""
        self.state.step.copy_(before.state.step)
        for name, tensors in self.state.entries.items():
            for tensor, old in zip(tensors, before.state.entries[name], strict=True):
                tensor.copy_(old.index_select(0, members))


class Rates:
    """The learning rates of the members, each by its own schedule; ``total_steps`` is each one's whole training."""

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        schedules: Sequence[Schedule],
        *,
        steps_per_epoch: int,
        total_steps: Sequence[int],
    ) -> None:
        self._base = torch.tensor([each.lr for each in optimizers], dtype=torch.float64)
        kinds = list(zip(map(repr, schedules), total_steps, strict=True))
        self._kinds = {kind: (schedule, kind[1]) for kind, schedule in zip(kinds, schedules, strict=True)}
        self._kind_of = torch.tensor([list(self._kinds).index(kind) for kind in kinds])
        self._steps_per_epoch = steps_per_epoch

    def table(self, first_step: int, steps: int) -> Tensor:
        """The rates of ``steps`` mini-batches from ``first_step``, counted from 0: float64 (steps, M), on the host."""
        factors = [
            [
                schedule.factor(step, steps_per_epoch=self._steps_per_epoch, total_steps=total)
                for schedule, total in self._kinds.values()
            ]
            for step in range(first_step, first_step + steps)
        ]
        return torch.tensor(factors, dtype=torch.float64).index_select(1, self._kind_of) * self._base


def clipped(gradients: Sequence[Tensor], norms: Tensor) -> list[Tensor]:
    """The gradients, (M, …), of each member scaled down to its entry of ``norms`` (M,), where theirs is larger.

    Where a member's norm is not finite they are nan: scaled to zeros, they would leave no trace.
    """
    own = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (norms / (own + CLIP_EPS)).clamp(max=1) + 0 * own
    return [gradient * fit(factors, gradient) for gradient in gradients]


def ema_weights(decays: Tensor, *, first: int, steps: int) -> Tensor:
    """How far averages with ``decays``, float64 (M,), go towards the weights: float64 (steps, M).

    After each of ``steps`` mini-batches, of which the ``first`` is counted from 0 over the whole run.
    """
    remembered = [max_ema_decay(step + 1) for step in range(first, first + steps)]
    return 1 - torch.minimum(decays, torch.tensor(remembered, dtype=torch.float64).unsqueeze(1))


@torch.no_grad()
def update_ema(averages: Sequence[Tensor], parameters: Sequence[Tensor], ema_weight: Tensor) -> None:
    """Let the averages, (M, …), go towards the parameters by ``ema_weight`` (M,), as the solo run's step does."""
    for average, parameter in zip(averages, parameters, strict=True):
        average.lerp_(parameter, fit(ema_weight, average))


def _momentum(optimizer: Optimizer) -> float:
    return float(getattr(optimizer, "momentum", 0.0))


def _of_parameters(optimizer: Optimizer, network: nn.Module) -> list[dict[str, Any]]:
    """The settings of each parameter, in the order of ``network``."""
    group_of = {id(parameter): group for group in optimizer.groups(network) for parameter in group["params"]}
    return [of_each(group_of[id(parameter)]) for parameter in network.parameters()]


def _together(values: Sequence[Any], device: torch.device, *, given: bool) -> Any:
    """A setting of M members, with their ``values``; what is no number, nor a list of them, is the same for all."""
    if isinstance(values[0], list):
        return tuple(_number(own, device, given=given) for own in zip(*values, strict=True))
    return _number(values, device, given=given) if isinstance(values[0], float) else values[0]


def _number(values: Sequence[float], device: torch.device, *, given: bool) -> Number:
    """One for all where they agree, which spares the rule a broadcast, else float64 (M,).

    Where it is to be ``given`` anew at each call only zero, which stands for none at all, is one for all.
    """
    same = len(set(values)) == 1 and not (given and values[0])
    return values[0] if same else torch.tensor(values, dtype=torch.float64, device=device)
