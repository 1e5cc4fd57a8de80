"""SGD, Adam and AdamW by PyTorch's fused kernels: one kernel updates all parameters with the same weight decay.

The rules in ``functional`` launch several kernels for each parameter. On a GPU, that takes longer than the rest of a
small network's update. So the rules first call the functions here, which have the same arguments and return whether
they have made the update.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from digitlab.core.abilities import abilities
from digitlab.optim.broadcast import Number
from digitlab.optim.state import RuleState


def sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    momentum: Number,
    nesterov: bool,
) -> bool:
    """Make the update of ``functional.sgd``; return False, and change nothing, if the kernel can't."""
    if not _fits(parameters, lr, [momentum, *weight_decay]):
        return False
    state.step.add_(1)
    kernel: Callable[..., Any] = torch._fused_sgd_

    def update(indices: Sequence[int], decay: Number, rate: Tensor) -> None:
        buffers = state.entries.get("momentum_buffer") if momentum else None
        # At its first step the kernel would copy the gradient into the buffer. Adding it to a buffer of zeros is the
        # same, so no step is treated as the first.
        kernel(
            [parameters[i] for i in indices], [gradients[i] for i in indices],
            [] if buffers is None else [buffers[i] for i in indices],
            weight_decay=decay, momentum=momentum, lr=rate, dampening=0.0, nesterov=nesterov, maximize=False,
            is_first_step=False,
        )  # fmt: skip

    _for_each_decay(update, parameters, weight_decay, lr)
    return True


def adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    betas: tuple[Number, Number],
    eps: Number,
    decoupled: bool,
) -> bool:
    """Make the update of ``functional.adam``, or with ``decoupled`` weight decay that of ``functional.adamw``.

    Return False, and change nothing, if the kernel can't.
    """
    if not _fits(parameters, lr, [*betas, eps, *weight_decay]):
        return False
    # The kernel reads the number of the update for each parameter, in float32.
    step = state.step.add_(1).to(torch.float32)
    kernel: Callable[..., Any] = torch._fused_adamw_ if decoupled else torch._fused_adam_

    def update(indices: Sequence[int], decay: Number, rate: Tensor) -> None:
        means, squares = ([state.entries[name][i] for i in indices] for name in ("exp_avg", "exp_avg_sq"))
        # The empty list is the place for the maxima that only AMSGrad keeps.
        kernel(
            [parameters[i] for i in indices], [gradients[i] for i in indices], means, squares, [],
            [step] * len(indices), lr=rate, beta1=betas[0], beta2=betas[1], weight_decay=decay, eps=eps, amsgrad=False,
            maximize=False,
        )  # fmt: skip

    _for_each_decay(update, parameters, weight_decay, lr)
    return True


def _fits(parameters: Sequence[Tensor], lr: Number, settings: Sequence[Number]) -> bool:
    """Return whether the kernels can make the update: there is one network, in float32, and its settings are numbers.

    In float64, the kernels would round the learning rate to float32. While the compiler traces the update, the
    parameters are ``FakeTensor``s. It returns False then, because the compiler cannot merge these kernels with other
    operations.
    """
    return (
        abilities(parameters[0].device).fused_rules
        and isinstance(lr, Tensor)
        and lr.numel() == 1
        and not any(isinstance(setting, Tensor) for setting in settings)
        and all(parameter.dtype == torch.float32 for parameter in parameters)
        and not isinstance(parameters[0], FakeTensor)
    )


def _for_each_decay(
    update: Callable[[Sequence[int], Number, Tensor], None],
    parameters: Sequence[Tensor],
    weight_decay: Sequence[Number],
    lr: Number,
) -> None:
    """Call ``update`` once for each value of ``weight_decay``, with the indices of the parameters that have it.

    ``update`` also gets the value, and the learning rate as the kernels take it: a float32 scalar.
    """
    assert isinstance(lr, Tensor)
    rate = lr.reshape(()).to(torch.float32)
    for decay in dict.fromkeys(weight_decay):
        indices = [i for i in range(len(parameters)) if weight_decay[i] == decay]
        update(indices, decay, rate)
