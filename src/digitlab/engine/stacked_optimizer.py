"""The optimizer of stacked networks: one update rule, with the settings and the learning-rate schedule of each member.

Stacked networks are the M members of a population, which are trained together, or the network of a solo run, which is a
stack of one. Their tensors are (M, ...). ``StackedUpdate`` applies the optimizer. It also converts between the stacked
state and the ``torch.optim`` state of each solo run, so that a member's checkpoint can be resumed alone, and a solo
run's checkpoint in a population.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from digitlab.engine.training_plan import TrainingPlan
from digitlab.optim.broadcast import Fit, Number, is_on
from digitlab.optim.functional import CLIP_EPS, RULES, max_ema_decay
from digitlab.optim.optimizers import RULE_OF, Optimizer, group_settings
from digitlab.optim.schedules import Schedule
from digitlab.optim.state import RuleName, RuleState, counts_steps, entry_names, init_state, to_optimizer_state

# The settings that sweeps usually vary. They are arguments of compiled functions and not constants, so that all runs of
# a sweep can use one library.
_VARIED_SETTINGS = ("lr_factor", "momentum", "weight_decay")


class StackedRule(NamedTuple):
    """An update rule and its settings for M members.

    A numeric setting is a float if all members share it, otherwise a float64 tensor (M,). ``shared`` are the settings
    that apply to all parameters; ``per_parameter`` has a list for each setting, with one entry for each parameter.
    """

    name: RuleName
    shared: dict[str, Any]
    per_parameter: dict[str, list[Any]]

    @classmethod
    def from_optimizers(
        cls,
        optimizers: Sequence[Optimizer],
        networks: Sequence[nn.Module],
        *,
        device: torch.device,
        always_tensors: bool = False,
    ) -> "StackedRule":
        """Stack the settings of ``optimizers``, one for each member; all have the same rule.

        ``networks`` are the members' networks: they decide which parameters have weight decay. With ``always_tensors``
        the settings that sweeps usually vary are tensors even if all members agree, so that a compiled rule does not
        contain their values and later sweeps can use the same library.
        """

        # The stacked values so far. Parameters with equal values share a tensor, which a rule then converts only once.
        tensors: dict[tuple[float, ...], Tensor] = {}

        # Members may differ only in numbers, so a setting has the same type in all of them.
        def stack_settings(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            return {
                name: _stack_setting(
                    [settings[name] for settings in members], device, tensors,
                    always_tensors=always_tensors and name in _VARIED_SETTINGS,
                )
                for name in members[0]
            }  # fmt: skip

        # Settings are stacked for each parameter, because a parameter may decay in one member and not in another. Each
        # member has a list with the settings of each parameter; ``zip`` turns this into the members' settings of each
        # parameter.
        settings_of_members = [_settings_of_parameters(*pair) for pair in zip(optimizers, networks, strict=True)]
        settings = [stack_settings(members) for members in zip(*settings_of_members, strict=True)]
        return cls(
            RULE_OF[type(optimizers[0])],
            stack_settings([optimizer.shared for optimizer in optimizers]),
            {name: [values[name] for values in settings] for name in settings[0]},
        )

    @property
    def is_plain_sgd(self) -> bool:
        """Whether an update only subtracts the gradient times the learning rate, with or without weight decay."""
        return self.name == "sgd" and not is_on(self.shared["momentum"])

    @torch.no_grad()
    def apply(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], state: RuleState, *, rates: Tensor
    ) -> None:
        """Update ``parameters``, (M, ...), in place with learning rates float64 (M,)."""
        RULES[self.name](parameters, gradients, state, lr=rates, **self.shared, **self.per_parameter)

    def decay_factors(self, parameters: Sequence[Tensor], rates: Tensor) -> list[Tensor | None]:
        """Return the factor by which weight decay multiplies each parameter, at learning rates float64 (M,).

        It is (M, 1, ...) to broadcast over the parameter; None for a parameter that no member decays.
        """
        decays = self.per_parameter["weight_decay"]
        # The factor is computed in float64, as Python does in a solo run; ``fit`` then converts it. Most parameters
        # share one decay, so its factor is computed once and found by the id of the decay.
        fit, factors = Fit(), {id(decay): 1 - rates * decay for decay in decays if is_on(decay)}
        return [
            cast(Tensor, fit(factors[id(decay)], parameter)) if is_on(decay) else None
            for parameter, decay in zip(parameters, decays, strict=True)
        ]


class StackedOptimizer:
    """Applies ``rule`` to the stacked ``parameters`` and keeps its state.

    ``optimizers`` are those of the members. ``state`` holds the moments of the rule, stacked like the parameters, and
    the number of updates so far.
    """

    def __init__(self, rule: StackedRule, optimizers: Sequence[Optimizer], parameters: Sequence[Tensor]) -> None:
        self.rule, self.parameters = rule, list(parameters)
        self._optimizers = list(optimizers)
        # If any member has momentum, all have momentum buffers; the rule multiplies those of the others by zero.
        self.state = init_state(rule.name, self.parameters, momentum=max(map(_momentum, optimizers)))

    def __call__(self, gradients: Sequence[Tensor], rates: Tensor) -> None:
        """Make one update with learning rates float64 (M,)."""
        self.rule.apply(self.parameters, gradients, self.state, rates=rates)

    def share(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Keep the state of a solo run in the tensors of its ``optimizer``, so that eager and fused updates can mix.

        A ``torch.optim`` optimizer creates its moments at its first step. They are created here, so that both change
        the same tensors whichever comes first. ``parameters`` are those of the network.
        """
        for index, parameter in enumerate(parameters):
            entries = optimizer.state[parameter]
            for name, tensors in self.state.entries.items():
                # A resumed run has entries from its checkpoint. They replace the new zeros.
                tensors[index] = entries.setdefault(name, tensors[index][0]).unsqueeze(0)
            if counts_steps(self.rule.name):
                entries.setdefault("step", torch.zeros((), dtype=torch.float32, device=parameter.device))

    def member_state(self, member: int, network: nn.Module) -> dict[int, dict[str, Tensor]]:
        """Return the ``"state"`` of the ``torch.optim`` optimizer that the member's solo run would have."""
        # A member without momentum has no momentum buffer when it trains alone, so its checkpoint gets none.
        names = entry_names(self.rule.name, momentum=_momentum(self._optimizers[member]))
        order = self._optimizer_order(member, network)
        entries = {name: [self.state.entries[name][index] for index in order] for name in names}
        return to_optimizer_state(self.rule.name, RuleState(self.state.step, entries), member=member)

    def load_member(
        self, member: int, network: nn.Module, state: Mapping[int, Mapping[str, Tensor]], *, steps: int
    ) -> None:
        """Load what ``member_state`` returned, after ``steps`` updates; all members have made the same number."""
        self.state.step.fill_(steps)
        order = self._optimizer_order(member, network)
        # A solo run without momentum has no buffer, and one without updates has no entry at all. Then the zeros stay.
        for number, entry in state.items():
            for name, tensors in self.state.entries.items():
                if name in entry:
                    tensors[order[number]][member].copy_(entry[name])

    def _optimizer_order(self, member: int, network: nn.Module) -> list[int]:
        """Return each parameter's index in ``network.parameters()``, in the order of the solo run's optimizer.

        The orders differ because an optimizer sorts parameters into groups, for example with and without decay.
        """
        # Parameters are compared by identity, as equal weights are not the same parameter.
        index_of = {id(parameter): index for index, parameter in enumerate(network.parameters())}
        groups = self._optimizers[member].groups(network)
        return [index_of[id(parameter)] for group in groups for parameter in group["params"]]

    def inherit(self, members: Tensor, former: "StackedOptimizer") -> None:
        """Copy the state from ``former``, in which this optimizer's members have the indices ``members``, int64."""
        self.state.step.copy_(former.state.step)
        for name, tensors in self.state.entries.items():
            # Copied and not shared, so that the tensors of the former runner, with all its members, can be freed.
            for tensor, former_tensor in zip(tensors, former.state.entries[name], strict=True):
                tensor.copy_(former_tensor.index_select(0, members))


class LearningRates:
    """The learning rates of the members; each follows its own schedule over its own ``total_steps``."""

    def __init__(
        self, optimizers: Sequence[Optimizer], schedules: Sequence[Schedule], plans: Sequence[TrainingPlan]
    ) -> None:
        # float64 on the host, because a solo run multiplies Python floats.
        self._base = torch.tensor([optimizer.lr for optimizer in optimizers], dtype=torch.float64)
        # Most members have the same schedule and length, so each distinct pair is evaluated only once for each step.
        # The text of a schedule has all its settings, so equal texts mean equal schedules.
        keys = list(zip(map(repr, schedules), (plan.total_steps for plan in plans), strict=True))
        self._distinct = {key: (schedule, key[1]) for key, schedule in zip(keys, schedules, strict=True)}
        self._schedule_of = torch.tensor([list(self._distinct).index(key) for key in keys])
        self._steps_per_epoch = plans[0].steps_per_epoch

    def table(self, first_step: int, steps: int) -> Tensor:
        """Return the rates of ``steps`` mini-batches from number ``first_step`` on: float64 (steps, M), on the host."""
        factors = [
            [
                schedule.factor(step, steps_per_epoch=self._steps_per_epoch, total_steps=total)
                for schedule, total in self._distinct.values()
            ]
            for step in range(first_step, first_step + steps)
        ]
        return torch.tensor(factors, dtype=torch.float64).index_select(1, self._schedule_of) * self._base


def clip_gradients(gradients: Sequence[Tensor], max_norms: Tensor) -> list[Tensor]:
    """Scale each member's gradients, (M, ...), down to its entry of ``max_norms`` (M,) if their norm is larger.

    For a single network, whose gradients have no dimension for members, ``max_norms`` is a scalar.

    The gradients of a member become nan if its norm is not finite. Otherwise an infinite norm would scale them to
    zeros, and the check for finite values would not notice the faulty update.
    """
    member_axes = max_norms.ndim
    norms = torch.stack([gradient.flatten(member_axes).norm(dim=member_axes) for gradient in gradients]).norm(dim=0)
    # 0 * norms is nan for an infinite norm and 0 otherwise.
    fit, factors = Fit(), (max_norms / (norms + CLIP_EPS)).clamp(max=1) + 0 * norms
    return [gradient * fit(factors, gradient) for gradient in gradients]


def ema_weights(decays: Tensor, *, first: int, steps: int) -> Tensor:
    """Return the weight of the new parameters in averages with ``decays``, float64 (M,): float64 (steps, M).

    Row i belongs to mini-batch ``first + i``, counted from 0 over the whole run.
    """
    # ``max_ema_decay`` explains why the decay is limited at first.
    limits = [max_ema_decay(step + 1) for step in range(first, first + steps)]
    return 1 - torch.minimum(decays, torch.tensor(limits, dtype=torch.float64).unsqueeze(1))


@torch.no_grad()
def update_ema(averages: Sequence[Tensor], parameters: Sequence[Tensor], ema_weight: Tensor) -> None:
    """Move the averages, (M, ...), in place towards the parameters, by the fraction ``ema_weight`` (M,) of the way."""
    fit = Fit()
    for average, parameter in zip(averages, parameters, strict=True):
        average.lerp_(parameter, fit(ema_weight, average))


def _momentum(optimizer: Optimizer) -> float:
    return float(getattr(optimizer, "momentum", 0.0))


def _settings_of_parameters(optimizer: Optimizer, network: nn.Module) -> list[dict[str, Any]]:
    """Return the settings of each parameter, in the order of ``network.parameters()``."""
    # Groups have different settings, such as weight decay for weights but not for biases.
    group_of = {id(parameter): group for group in optimizer.groups(network) for parameter in group["params"]}
    return [group_settings(group_of[id(parameter)]) for parameter in network.parameters()]


def _stack_setting(
    values: Sequence[Any], device: torch.device, tensors: dict[tuple[float, ...], Tensor], *, always_tensors: bool
) -> Any:
    """Stack the ``values`` that M members have for a setting: a float, or a list of floats such as Adam's betas.

    Any other setting is the same for all members of a population, so its first value stands for all. ``tensors`` has
    the stacked values so far.
    """
    if isinstance(values[0], list):
        columns = zip(*values, strict=True)
        return tuple(_stack_numbers(column, device, tensors, always_tensors=always_tensors) for column in columns)
    if not isinstance(values[0], float):
        return values[0]
    return _stack_numbers(values, device, tensors, always_tensors=always_tensors)


def _stack_numbers(
    values: Sequence[float], device: torch.device, tensors: dict[tuple[float, ...], Tensor], *, always_tensors: bool
) -> Number:
    """Return a float if all ``values`` are equal, which saves a broadcast in the rule; otherwise float64 (M,).

    With ``always_tensors`` only a common zero stays a float: it switches the setting off, which changes the operations.
    These tensors are arguments of a compiled function, which must not share memory, so each is a new one.
    """
    if len(set(values)) == 1 and not (always_tensors and values[0]):
        return values[0]
    stacked = torch.tensor(values, dtype=torch.float64, device=device)
    return stacked if always_tensors else tensors.setdefault(tuple(values), stacked)
