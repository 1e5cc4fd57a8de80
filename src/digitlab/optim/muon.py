"""Muon: its update rule for ``functional.RULES``, and the optimizer ``Muon`` for eager solo runs, which calls it.

``torch.optim.Muon`` takes only matrices. This one also takes filters, and parameters that are trained by gradient
descent beside them; the settings class ``optimizers.Muon`` decides which are which. In a population, parameters of M
members are stacked.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.optim.broadcast import Fit, Number, add_scaled, decayed, is_on, sum_scaled
from digitlab.optim.state import RuleState

# Coefficients of the polynomial a x + b x³ + c x⁵. Jordan et al. (2024) chose a steep start, so that small singular
# values grow quickly; those near 1 stay near 1 but do not converge to it.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, *, iterations: int) -> Tensor:
    """Return ``matrix`` with all singular values moved close to 1 and the same singular vectors.

    ``matrix`` is (rows, columns) or (M, rows, columns), float; the result has the same shape and dtype. The
    Newton–Schulz iteration is applied to the matrix divided by its Frobenius norm. After five ``iterations``, singular
    values that were more than a hundredth of this norm are between about 0.7 and 1.2. Zeros stay zeros. The products
    are computed in the dtype that ``_product_dtype`` chooses.
    """
    a, b, c = _QUINTIC
    dtype = _product_dtype(matrix)
    rows, columns = matrix.shape[-2:]
    # A tall matrix is transposed first, because the products of a wide one with its transpose are smaller.
    near = (matrix.mT if rows > columns else matrix).to(dtype)
    near = near / (torch.linalg.vector_norm(near, dim=(-2, -1), keepdim=True) + 1e-7)
    add_product = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    for _ in range(iterations):
        square = near @ near.mT
        near = add_product(near, add_product(square, square, square, beta=b, alpha=c), near, beta=a)
    return (near.mT if rows > columns else near).to(matrix.dtype)


def _product_dtype(matrix: Tensor) -> torch.dtype:
    """Return the dtype for products with ``matrix``: its own, or bfloat16 if that is faster and exact enough.

    Bfloat16 rounds by less than the error that the iteration leaves. But a run with ``trainer.precision=64`` (float64
    parameters) or ``32-true`` (matrix products of "highest" precision) gets the precision that it asks for.
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

    That is Muon (Jordan et al., 2024); parameters with ``iterations`` = 0 are trained by gradient descent. Parameters,
    gradients and state are as in ``functional``; every setting but ``lr`` has one entry for each parameter.

    The learning rate of a parameter is ``lr`` · ``lr_factor``, so that one schedule of ``lr`` serves all. Weight decay
    is decoupled (as in AdamW) for orthogonalised parameters, and coupled (as in SGD) for the others. With
    ``normalize_filters``, an orthogonalised parameter is rescaled before each update so that the root mean square of
    the norms of its filters (or rows) is 1; this suits networks with normalisation layers, where the scale of weights
    has no effect. If ``lr`` is a tensor (M,), parameters are stacked, (M, …).
    """
    state.step.add_(1)
    filters = 1 if isinstance(lr, Tensor) and lr.ndim == 1 else 0
    # Parameters of a group share their settings; each rate is computed and converted once.
    fit, descents = Fit(), {id(factor): -(lr * factor) for factor in lr_factor}
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        buffer, descent, decay = state.entries["momentum_buffer"][i], descents[id(lr_factor[i])], weight_decay[i]
        own_momentum = fit(momentum[i], parameter)
        if iterations[i]:
            update = _with_momentum(gradient, buffer, own_momentum)
            update = _orthogonal(update, iterations=iterations[i], filters=filters)
            if normalize_filters[i]:
                _rescale(parameter, filters=filters)
            if is_on(decay):
                parameter.mul_(fit(1 + descent * decay, parameter))
        else:
            update = _with_momentum(decayed(gradient, parameter, decay, fit), buffer, own_momentum)
        add_scaled(parameter, update, fit(descent, parameter))


def _orthogonal(update: Tensor, *, iterations: int, filters: int) -> Tensor:
    """Orthogonalise ``update`` as a matrix with the axis ``filters`` as rows; with ``filters`` = 1, for each member."""
    matrix = update.flatten(filters + 1)
    rows, columns = matrix.shape[filters:]
    # A tall matrix needs larger entries to change the output as much (Jordan et al., 2024).
    scale = math.sqrt(max(1, rows / columns))
    return scale * orthogonalised(matrix, iterations=iterations).reshape(update.shape)


def _rescale(parameter: Tensor, *, filters: int) -> None:
    """Scale ``parameter`` in place to the norm sqrt(number of filters), for each member if ``filters`` is 1."""
    axes = tuple(range(filters, parameter.ndim))
    norm = torch.linalg.vector_norm(parameter, dim=axes, keepdim=True) / math.sqrt(parameter.shape[filters])
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
        """Create it from groups, which have ``params`` and the settings that ``muon`` takes for each parameter."""
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            buffers = [self._buffer(parameter) for parameter in parameters]
            of_each = {name: [value] * len(parameters) for name, value in group.items() if name not in ("params", "lr")}
            # The rule does not use the number of steps.
            state = RuleState(torch.zeros(()), {"momentum_buffer": buffers})
            muon(parameters, gradients, state, lr=group["lr"], **of_each)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
