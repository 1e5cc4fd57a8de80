"""Update rules as plain functions of tensors, for populations (stacked members) and compiled steps.

The eager solo run updates by ``torch.optim``, which is the oracle of these rules: same arithmetic, same state under the
same names (``rule_state``), so that a checkpoint made by one can be resumed by the other.

All rules are called alike, ``rule(parameters, gradients, state, lr=…, weight_decay=…, …)``. Parameters and state change
in place, gradients never; parameters that require a gradient need ``torch.no_grad`` around the call. Gradients have the
shapes of their parameters, (M, …) in a population of M members. What a number may be says ``hyperparameters``. What
parameters have of their own has one entry a parameter: ``weight_decay``, as biases are not decayed, and all of Muon's,
whose rule stands beside its torch optimiser in ``muon``.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from digitlab.optim.broadcast import Number, add_scaled, decayed, fit, is_on, sum_scaled
from digitlab.optim.muon import muon
from digitlab.optim.state import RuleName, RuleState


def sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    momentum: Number = 0.0,
    nesterov: bool = False,
) -> None:
    """Gradient descent; ``momentum`` after Sutskever et al. (2013), with or without Nesterov's look ahead."""
    state.step.add_(1)
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = decayed(gradient, parameter, decay)
        if is_on(momentum):
            # torch starts the buffer with the first gradient, which is what a buffer of zeros gives without dampening.
            buffer = state.entries["momentum_buffer"][i].mul_(fit(momentum, parameter)).add_(update)
            update = sum_scaled(update, buffer, fit(momentum, parameter)) if nesterov else buffer
        add_scaled(parameter, update, -fit(lr, parameter))


def adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
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
        update = decayed(gradient, parameter, decay)
        mean = state.entries["exp_avg"][i].lerp_(update, fit(1 - beta1, parameter))
        square = _average_square(state.entries["exp_avg_sq"][i], update, beta2)
        root = square.sqrt().div_(fit(correction2_sqrt, parameter)).add_(fit(eps, parameter))
        add_scaled(parameter, mean / root, -fit(step_size, parameter))


def adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
) -> None:
    """AdamW (Loshchilov and Hutter, 2019): weight decay apart from the moments."""
    for parameter, decay in zip(parameters, weight_decay, strict=True):
        if is_on(decay):
            parameter.mul_(fit(1 - lr * decay, parameter))
    adam(parameters, gradients, state, lr=lr, weight_decay=[0.0] * len(parameters), betas=betas, eps=eps)


def rmsprop(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
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
        update = decayed(gradient, parameter, decay)
        square = _average_square(state.entries["square_avg"][i], update, alpha)
        update = update / square.sqrt().add_(fit(eps, parameter))
        if is_on(momentum):
            update = state.entries["momentum_buffer"][i].mul_(fit(momentum, parameter)).add_(update)
        add_scaled(parameter, update, -fit(lr, parameter))


def adagrad(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    eps: Number = 1e-10,
) -> None:
    """AdaGrad (Duchi et al., 2011)."""
    state.step.add_(1)
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = decayed(gradient, parameter, decay)
        root = state.entries["sum"][i].addcmul_(update, update).sqrt().add_(fit(eps, parameter))
        add_scaled(parameter, update / root, -fit(lr, parameter))


RULES: Mapping[RuleName, Callable[..., None]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "muon": muon,
}

# torch's own, in clip_grad_norm_.
CLIP_EPS = 1e-6


def max_ema_decay(steps: int) -> float:
    """The largest share of itself that an average of the weights keeps in its update after ``steps`` mini-batches.

    The early average would be mostly initial weights: its memory grows with the steps taken.
    """
    return (1 + steps) / (10 + steps)


def _average_square(average: Tensor, gradient: Tensor, beta: Number) -> Tensor:
    """The running mean of the squared gradient, brought up to date in place."""
    if isinstance(beta, Tensor):
        return average.lerp_(gradient.square(), fit(1 - beta, average))
    return average.mul_(beta).addcmul_(gradient, gradient, value=1 - beta)


def _bias_correction(beta: Number, step: Tensor) -> Tensor:
    """1 − beta^step. As a power the compiler fuses it into the update and computes it for every entry (10 × slower)."""
    if isinstance(beta, Tensor):
        return 1 - torch.exp(step * beta.log())
    return 1 - torch.exp(step * (math.log(beta) if beta else -math.inf))
