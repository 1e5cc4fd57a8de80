"""The optimizer Muon (Jordan et al., 2024): the function ``muon`` makes an update, the class ``Muon`` calls it.

Muon makes the update of a weight matrix orthogonal, so that all its singular values are close to 1: then the directions
with small gradients are trained as fast as those with large ones. Compiled runs and populations (M networks, the
members, that are trained at once with stacked parameters) use the function through ``functional.RULES``. Eager runs of
one network use the class.

``torch.optim.Muon`` takes only matrices. This one also takes the filters of convolutions, and it trains all other
parameters by gradient descent. The settings class ``optimizers.Muon`` decides which parameter belongs to which kind.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.optim.broadcast import Fit, Number, add_scaled, decayed, is_on, sum_scaled
from digitlab.optim.state import RuleState

# The coefficients a, b and c of the polynomial a x + b x³ + c x⁵, which each iteration applies to all singular values.
# Jordan et al. (2024) chose one that is steep at 0, so that small singular values grow quickly. Its price is that
# values near 1 stay near 1 but do not converge to it.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, *, iterations: int) -> Tensor:
    """Return a matrix with the singular vectors of ``matrix`` and singular values close to 1.

    ``matrix`` is (rows, columns) or (M, rows, columns), float; the result has the same shape and dtype. The matrix is
    divided by its Frobenius norm, and then the Newton–Schulz iteration is applied to it. After five ``iterations``,
    singular values that were more than a hundredth of this norm are between about 0.7 and 1.2. A matrix of zeros stays
    zero.
    """
    a, b, c = _QUINTIC
    dtype = _product_dtype(matrix)
    rows, columns = matrix.shape[-2:]
    # A tall matrix is transposed first, because the products of a wide one with its transpose are smaller.
    result = (matrix.mT if rows > columns else matrix).to(dtype)
    # The small number avoids 0 / 0 for a matrix of zeros.
    result = result / (torch.linalg.vector_norm(result, dim=(-2, -1), keepdim=True) + 1e-7)
    add_product = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    for _ in range(iterations):
        # X becomes a X + (b X Xᵀ + c X Xᵀ X Xᵀ) X. A product and the sum that follows it are one kernel.
        gram = result @ result.mT
        factor = add_product(gram, gram, gram, beta=b, alpha=c)
        result = add_product(result, factor, result, beta=a)
    return (result.mT if rows > columns else result).to(matrix.dtype)


def _product_dtype(matrix: Tensor) -> torch.dtype:
    """Return the dtype for products with ``matrix``: its own, or bfloat16 if that is faster and exact enough.

    The rounding errors of bfloat16 are smaller than the distance to 1 at which the iteration leaves the singular
    values. But if the user asks for more precision, it is used: ``trainer.precision=64`` makes the parameters float64,
    and ``32-true`` sets the precision of matrix products to "highest".
    """
    exact = matrix.dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
    return torch.bfloat16 if abilities(matrix.device).fast_bfloat16 and not exact else matrix.dtype


def muon(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: RuleState,
    *,
    lr: Number,
    weight_decay: Sequence[Number],
    lr_factor: Sequence[Number],
    momentum: Sequence[Number],
    iterations: Sequence[int],
    normalize_filters: Sequence[bool],
) -> None:
    """Update with Nesterov momentum; the updates of parameters with ``iterations`` > 0 are orthogonalised.

    Parameters with ``iterations`` = 0 are trained by gradient descent. Parameters, gradients and state are as in
    ``functional``. Every setting but ``lr`` has one entry for each parameter, because the parameters of one network are
    trained in different ways.

    The learning rate of a parameter is ``lr`` · ``lr_factor``, so that all parameters can follow one schedule of
    ``lr``. Weight decay is decoupled (as in AdamW) for orthogonalised parameters, and coupled (as in SGD) for the
    others. With ``normalize_filters``, an orthogonalised parameter is rescaled before each update so that the root mean
    square of the norms of its filters (or rows) is 1. This suits networks with normalisation layers, where the scale of
    weights has no effect. If ``lr`` is a tensor (M,), parameters are stacked, (M, …).
    """
    state.step.add_(1)
    # The axis of the filters (or rows) in each parameter: axis 0 of a stacked parameter counts the members.
    filter_axis = 1 if isinstance(lr, Tensor) and lr.ndim == 1 else 0
    # ``descents`` has the factor of an update, minus the learning rate. The parameters of a group share the object
    # ``lr_factor``, so its id finds the factor, and each factor is computed and converted only once.
    fit, descents = Fit(), {id(factor): -(lr * factor) for factor in lr_factor}
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        buffer, descent, decay = state.entries["momentum_buffer"][i], descents[id(lr_factor[i])], weight_decay[i]
        momentum_factor = fit(momentum[i], parameter)
        if iterations[i]:
            update = _with_momentum(gradient, buffer, momentum_factor)
            update = _orthogonal(update, iterations=iterations[i], filter_axis=filter_axis)
            if normalize_filters[i]:
                _rescale(parameter, filter_axis=filter_axis)
            if is_on(decay):
                parameter.mul_(fit(1 + descent * decay, parameter))
        else:
            update = _with_momentum(decayed(gradient, parameter, decay, fit), buffer, momentum_factor)
        add_scaled(parameter, update, fit(descent, parameter))


def _orthogonal(update: Tensor, *, iterations: int, filter_axis: int) -> Tensor:
    """Orthogonalise ``update`` as a matrix that has a row for each filter.

    With ``filter_axis`` = 1, axis 0 counts the members, and each member has a matrix of its own.
    """
    matrix = update.flatten(filter_axis + 1)
    rows, columns = matrix.shape[filter_axis:]
    # A tall matrix needs larger entries to change the output as much (Jordan et al., 2024).
    scale = math.sqrt(max(1, rows / columns))
    return scale * orthogonalised(matrix, iterations=iterations).reshape(update.shape)


def _rescale(parameter: Tensor, *, filter_axis: int) -> None:
    """Scale ``parameter``, or each member's part if ``filter_axis`` is 1, in place to the norm sqrt(filters)."""
    axes = tuple(range(filter_axis, parameter.ndim))
    norm = torch.linalg.vector_norm(parameter, dim=axes, keepdim=True) / math.sqrt(parameter.shape[filter_axis])
    # A parameter of zeros stays zero instead of becoming nan.
    parameter.div_(norm.clamp(min=torch.finfo(norm.dtype).tiny))


def _with_momentum(gradient: Tensor, buffer: Tensor, momentum: Number) -> Tensor:
    """Update the momentum ``buffer`` in place; return the gradient plus ``momentum`` times the buffer (Nesterov).

    A ``momentum`` that is a tensor broadcasts against the gradient.
    """
    return sum_scaled(gradient, buffer.mul_(momentum).add_(gradient), momentum)


class Muon(torch.optim.Optimizer):
    """The rule ``muon`` as a ``torch.optim.Optimizer``, for eager solo runs."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        """Take ``groups`` of parameters: each has ``params``, and one value of every setting of ``muon`` but ``lr``."""
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            buffers = [self._buffer(parameter) for parameter in parameters]
            names = [name for name in group if name not in ("params", "lr")]
            settings = {name: [group[name]] * len(parameters) for name in names}
            # The rule does not use the number of steps, so it may be wrong.
            state = RuleState(torch.zeros(()), {"momentum_buffer": buffers})
            muon(parameters, gradients, state, lr=group["lr"], **settings)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
