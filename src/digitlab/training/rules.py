"""Update rules as plain functions of tensors, for populations (stacked members) and compiled steps.

The eager solo run updates by ``torch.optim``, which is the oracle of these rules: same arithmetic, same state under the
same names, so that a checkpoint made by one can be resumed by the other.

All rules are called alike, ``rule(parameters, gradients, state, lr=…, weight_decay=…, …)``. Parameters and state change
in place, gradients never; parameters that require a gradient need ``torch.no_grad`` around the call. Gradients have the
shapes of their parameters, (M, …) in a population of M members. A hyper-parameter is a float, a tensor without
dimensions (which a compiled step can be given anew without being compiled again) or an (M,) tensor, one value a member.
Such tensors should be float64 whatever the parameters are, as Python's floats are: in float32, 1 − 0.999 is right to
five digits only. ``weight_decay`` has one entry a parameter, as biases are not decayed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from digitlab.training.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

Number = float | Tensor
RuleName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]


class State(NamedTuple):
    """What a rule remembers from one update to the next.

    ``step``: number of updates made, without dimensions. ``entries``: under each name that ``torch.optim`` uses, one
    tensor a parameter, shaped like it, zero at first.
    """

    step: Tensor
    entries: dict[str, list[Tensor]]


def init_state(rule: RuleName, parameters: Sequence[Tensor], *, momentum: Number = 0.0) -> State:
    """The state before the first update; ``momentum`` decides whether there is a buffer for it."""
    names = list(_ENTRIES[rule])
    if _is_on(momentum):
        names.append("momentum_buffer")
    step = torch.zeros((), dtype=_step_dtype(parameters[0].device), device=parameters[0].device)
    return State(step, {name: [torch.zeros_like(p, requires_grad=False) for p in parameters] for name in names})


def sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: State,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    momentum: Number = 0.0,
    nesterov: bool = False,
) -> None:
    """Gradient descent; ``momentum`` after Sutskever et al. (2013), with or without Nesterov's look ahead."""
    state.step.add_(1)
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = _decayed(gradient, parameter, decay)
        if _is_on(momentum):
            # torch starts the buffer with the first gradient, which is what a buffer of zeros gives without dampening.
            buffer = state.entries["momentum_buffer"][i].mul_(_fit(momentum, parameter)).add_(update)
            update = _sum_scaled(update, buffer, _fit(momentum, parameter)) if nesterov else buffer
        _add_scaled(parameter, update, -_fit(lr, parameter))


def adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: State,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
) -> None:
    """Adam (Kingma and Ba, 2015); weight decay is coupled: it passes through the moments like any gradient."""
    beta1, beta2 = betas
    step = state.step.add_(1)
    step_size = lr / _bias_correction(beta1, step)
    correction2_sqrt = _bias_correction(beta2, step).sqrt()
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = _decayed(gradient, parameter, decay)
        mean = state.entries["exp_avg"][i].lerp_(update, _fit(1 - beta1, parameter))
        square = _average_square(state.entries["exp_avg_sq"][i], update, beta2)
        root = square.sqrt().div_(_fit(correction2_sqrt, parameter)).add_(_fit(eps, parameter))
        _add_scaled(parameter, mean / root, -_fit(step_size, parameter))


def adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: State,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
) -> None:
    """AdamW (Loshchilov and Hutter, 2019): weight decay apart from the moments."""
    for parameter, decay in zip(parameters, weight_decay, strict=True):
        if _is_on(decay):
            parameter.mul_(_fit(1 - lr * decay, parameter))
    adam(parameters, gradients, state, lr=lr, weight_decay=[0.0] * len(parameters), betas=betas, eps=eps)


def rmsprop(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: State,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    momentum: Number = 0.0,
    alpha: Number = 0.99,
    eps: Number = 1e-8,
) -> None:
    """RMSprop (Hinton, 2012), not centred."""
    state.step.add_(1)
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = _decayed(gradient, parameter, decay)
        square = _average_square(state.entries["square_avg"][i], update, alpha)
        update = update / square.sqrt().add_(_fit(eps, parameter))
        if _is_on(momentum):
            update = state.entries["momentum_buffer"][i].mul_(_fit(momentum, parameter)).add_(update)
        _add_scaled(parameter, update, -_fit(lr, parameter))


def adagrad(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: State,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    eps: Number = 1e-10,
) -> None:
    """AdaGrad (Duchi et al., 2011)."""
    state.step.add_(1)
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = _decayed(gradient, parameter, decay)
        root = state.entries["sum"][i].addcmul_(update, update).sqrt().add_(_fit(eps, parameter))
        _add_scaled(parameter, update / root, -_fit(lr, parameter))


RULES: Mapping[RuleName, Callable[..., None]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
}

RULE_OF: dict[type[Optimizer], RuleName] = {
    SGD: "sgd", Adam: "adam", AdamW: "adamw", RMSprop: "rmsprop", Adagrad: "adagrad"
}  # fmt: skip

# torch's own, in clip_grad_norm_.
CLIP_EPS = 1e-6

# What torch.optim keeps for each parameter, apart from the step and the momentum buffer.
_ENTRIES: Mapping[RuleName, tuple[str, ...]] = {
    "sgd": (),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "rmsprop": ("square_avg",),
    "adagrad": ("sum",),
}


def most_remembered(steps: int) -> float:
    """The largest share of itself that an average of the weights keeps in its update after ``steps`` mini-batches.

    The early average would be mostly initial weights: its memory grows with the steps taken.
    """
    return (1 + steps) / (10 + steps)


def to_optimizer_state(rule: RuleName, state: State, *, member: int | None = None) -> dict[int, dict[str, Tensor]]:
    """``state`` as the ``"state"`` of a ``torch.optim`` optimiser's ``state_dict``: of a solo run, or of one member.

    The parameters are numbered in the order in which the rule was given them. The tensors are copies.
    """
    entries = {}
    for i, tensors in enumerate(zip(*state.entries.values(), strict=True)):
        own = (tensor if member is None else tensor[member] for tensor in tensors)
        entries[i] = {name: tensor.clone() for name, tensor in zip(state.entries, own, strict=True)}
        if rule != "sgd":  # torch's SGD counts no steps
            entries[i]["step"] = state.step.to(torch.float32, copy=True)
    return entries


def from_optimizer_state(
    rule: RuleName, entries: Mapping[int, Mapping[str, Tensor]], parameters: Sequence[Tensor], *, momentum: Number = 0.0
) -> State:
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
    return torch.float32 if device.type == "mps" else torch.float64


def _is_on(number: Number) -> bool:
    """A tensor may hold zeros for some members, which is for its device to know: it is always on."""
    return isinstance(number, Tensor) or number != 0


def _fit(number: Number, parameter: Tensor) -> Number:
    """A hyper-parameter shaped to meet ``parameter``: (M,) becomes (M, 1, …), in the parameter's dtype."""
    if not isinstance(number, Tensor):
        return number
    return number.to(parameter.dtype).reshape(number.shape + (1,) * (parameter.ndim - number.ndim))


def _add_scaled(target: Tensor, tensor: Tensor, factor: Number) -> None:
    """``target += factor · tensor`` in one pass."""
    if isinstance(factor, Tensor):
        target.addcmul_(tensor, factor)
    else:
        target.add_(tensor, alpha=factor)


def _sum_scaled(first: Tensor, second: Tensor, factor: Number) -> Tensor:
    """``first + factor · second`` in one pass, as a new tensor."""
    return first.addcmul(second, factor) if isinstance(factor, Tensor) else first.add(second, alpha=factor)


def _average_square(average: Tensor, gradient: Tensor, beta: Number) -> Tensor:
    """The running mean of the squared gradient, brought up to date in place."""
    if isinstance(beta, Tensor):
        return average.lerp_(gradient.square(), _fit(1 - beta, average))
    return average.mul_(beta).addcmul_(gradient, gradient, value=1 - beta)


def _bias_correction(beta: Number, step: Tensor) -> Tensor:
    """1 − beta^step. As a power the compiler fuses it into the update and computes it for every entry (10 × slower)."""
    if isinstance(beta, Tensor):
        return 1 - torch.exp(step * beta.log())
    return 1 - torch.exp(step * (math.log(beta) if beta else -math.inf))


def _decayed(gradient: Tensor, parameter: Tensor, decay: Number) -> Tensor:
    """The gradient with that of decay/2 · ‖parameter‖², the coupled weight decay, added."""
    return _sum_scaled(gradient, parameter, _fit(decay, parameter)) if _is_on(decay) else gradient
