"""Update rules, which make an optimizer's step, as functions of tensors.

``engine`` uses them for compiled runs and for populations: M networks, the members, that are trained at once with
stacked parameters. Eager runs of one network use ``torch.optim``, the reference for these rules. The rules do the same
arithmetic and keep the same state under the same names (see ``state``). So a run can resume from a checkpoint of either
kind.

All rules have the form ``rule(parameters, gradients, state, lr=…, weight_decay=…, …)``. They change ``parameters`` and
``state`` in place, but not ``gradients``; if parameters require gradients, call them under ``torch.no_grad``. A
parameter and its gradient have the same shape; in a population of M members it is (M, …). A setting that can differ
between parameters is a sequence with one entry for each: ``weight_decay``, because biases are not decayed, and all
settings of Muon, whose rule is in the module ``muon``.

``broadcast`` explains which settings may be tensors. In the code, ``fit(number, parameter)`` gives a number the shape
and dtype in which it can be multiplied with a parameter. ``descent`` is the factor of an update: minus the learning
rate. On a GPU, the kernels in ``fused`` make some of the updates: if ``fused.sgd`` or ``fused.adam`` returns True, the
update is done.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from digitlab.optim import fused
from digitlab.optim.broadcast import Fit, Number, add_scaled, decayed, is_on, sum_scaled
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
    """Gradient descent, with or without momentum (in the form of Sutskever et al., 2013), which may be Nesterov's."""
    if fused.sgd(parameters, gradients, state, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov):
        return
    state.step.add_(1)
    fit, descent = Fit(), -lr
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = decayed(gradient, parameter, decay, fit)
        if is_on(momentum):
            # PyTorch starts with the first gradient in the buffer. A buffer of zeros gives the same result, because
            # digitlab does not use dampening.
            buffer = state.entries["momentum_buffer"][i].mul_(fit(momentum, parameter)).add_(update)
            update = sum_scaled(update, buffer, fit(momentum, parameter)) if nesterov else buffer
        add_scaled(parameter, update, fit(descent, parameter))


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
    """Adam (Kingma and Ba, 2015); weight decay is coupled: it is added to the gradient before the moments."""
    if fused.adam(
        parameters, gradients, state, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, decoupled=False
    ):
        return
    beta1, beta2 = betas
    step = state.step.add_(1)
    # Both means start at zero, so they are too small at first. The learning rate corrects the mean of the gradient, and
    # ``correction2_sqrt`` that of its square.
    fit, descent = Fit(), -lr / _bias_correction(beta1, step)
    correction2_sqrt = _bias_correction(beta2, step).sqrt()
    mean_weight, square_weight = 1 - beta1, 1 - beta2
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = decayed(gradient, parameter, decay, fit)
        mean = state.entries["exp_avg"][i].lerp_(update, fit(mean_weight, parameter))
        square = _average_square(state.entries["exp_avg_sq"][i], update, beta2, fit(square_weight, parameter))
        root = square.sqrt().div_(fit(correction2_sqrt, parameter)).add_(fit(eps, parameter))
        add_scaled(parameter, mean / root, fit(descent, parameter))


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
    """AdamW (Loshchilov and Hutter, 2019); weight decay is decoupled: it makes the parameters smaller directly."""
    if fused.adam(parameters, gradients, state, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, decoupled=True):
        return
    fit = Fit()
    # Most parameters share one decay, so its factor is computed once and found by the id of the decay.
    factors = {id(decay): 1 - lr * decay for decay in weight_decay if is_on(decay)}
    for parameter, decay in zip(parameters, weight_decay, strict=True):
        if is_on(decay):
            parameter.mul_(fit(factors[id(decay)], parameter))
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
    fit, descent, square_weight = Fit(), -lr, 1 - alpha
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = decayed(gradient, parameter, decay, fit)
        square = _average_square(state.entries["square_avg"][i], update, alpha, fit(square_weight, parameter))
        update = update / square.sqrt().add_(fit(eps, parameter))
        if is_on(momentum):
            update = state.entries["momentum_buffer"][i].mul_(fit(momentum, parameter)).add_(update)
        add_scaled(parameter, update, fit(descent, parameter))


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
    fit, descent = Fit(), -lr
    for i, (parameter, gradient, decay) in enumerate(zip(parameters, gradients, weight_decay, strict=True)):
        update = decayed(gradient, parameter, decay, fit)
        root = state.entries["sum"][i].addcmul_(update, update).sqrt().add_(fit(eps, parameter))
        add_scaled(parameter, update / root, fit(descent, parameter))


RULES: Mapping[RuleName, Callable[..., None]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "muon": muon,
}

# Clipping divides by the norm of the gradient plus this number, as torch.nn.utils.clip_grad_norm_ does.
CLIP_EPS = 1e-6


def max_ema_decay(steps: int) -> float:
    """Return the largest decay that a moving average of the weights may have after ``steps`` mini-batches, from 1 on.

    Without the limit, the early average would consist mostly of the initial weights. The formula is that of
    TensorFlow's ``ExponentialMovingAverage``.
    """
    return (1 + steps) / (10 + steps)


def _average_square(average: Tensor, gradient: Tensor, beta: Number, weight: Number) -> Tensor:
    """Update the running mean of the squared gradient in place and return it.

    ``weight`` is 1 - ``beta``, in a form that broadcasts against the gradient.
    """
    # If both are floats, ``addcmul_`` is used, as in ``torch.optim``. It needs no tensor for the square, but its factor
    # cannot be a tensor.
    if isinstance(beta, Tensor) or isinstance(weight, Tensor):
        return average.lerp_(gradient.square(), weight)
    return average.mul_(beta).addcmul_(gradient, gradient, value=weight)


def _bias_correction(beta: Number, step: Tensor) -> Tensor:
    """Return 1 − beta^step as a scalar or (M,) tensor."""
    # With exp and log, because the compiler would compute a power again for every entry of every parameter, which is
    # ten times slower.
    if isinstance(beta, Tensor):
        return 1 - torch.exp(step * beta.log())
    return 1 - torch.exp(step * (math.log(beta) if beta else -math.inf))
