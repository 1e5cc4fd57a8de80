"""Muon: its update as a rule like those of ``rules``, and as a torch optimiser.

``torch.optim.Muon`` takes matrices only; this one takes filters too, and beside them what descends as usual. Which are
which says its schema, ``optimizers.Muon``. M members, where they are stacked.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.optim.broadcast import Number, add_scaled, decayed, fit, is_on, sum_scaled
from digitlab.optim.state import RuleState

# Of the quintic a x + b x³ + c x⁵: chosen by Jordan et al. (2024) for a steep start, so that small singular values grow
# at once; those near 1 are sent about it, not to it.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, *, iterations: int) -> Tensor:
    """``matrix`` (rows, columns) with all its singular values brought near 1, its singular vectors as they are.

    Of several, (M, rows, columns), each is. By Newton-Schulz iterations on the matrix over its Frobenius norm; after
    five of them singular values of more than a hundredth of that norm lie within 0.7 and 1.2 or so. Zeros stay zeros.
    It is computed in ``_product_dtype``.
    """
    a, b, c = _QUINTIC
    dtype = _product_dtype(matrix)
    rows, columns = matrix.shape[-2:]
    # The products with its transpose are smaller for a wide one.
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
    """Momentum with Nesterov's look ahead, whose updates are orthogonalised for parameters with ``iterations`` (Muon,
    Jordan et al., 2024), and are left as they are for those without (0).

    A parameter's learning rate is ``lr`` · ``lr_factor``, so that one schedule of ``lr`` serves all. Weight decay of
    what is orthogonalised is apart from the update (as in AdamW), of the others a part of the gradient (as in SGD).
    ``normalize_filters`` rescales an orthogonalised weight before its update so that its filters (or rows) have norm 1
    on average. Use it for networks whose normalisation layers make the scale of the weights meaningless. An ``lr`` of
    (M,) says that parameters are stacked, (M, …).
    """
    state.step.add_(1)
    filters = 1 if isinstance(lr, Tensor) and lr.ndim == 1 else 0
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        buffer, rate, decay = state.entries["momentum_buffer"][i], lr * lr_factor[i], weight_decay[i]
        if iterations[i]:
            update = _with_momentum(gradient, buffer, momentum[i])
            update = _orthogonal(update, iterations=iterations[i], filters=filters)
            if normalize_filters[i]:
                _rescale(parameter, filters=filters)
            if is_on(decay):
                parameter.mul_(fit(1 - rate * decay, parameter))
        else:
            update = _with_momentum(decayed(gradient, parameter, decay), buffer, momentum[i])
        add_scaled(parameter, update, -fit(rate, parameter))


def _orthogonal(update: Tensor, *, iterations: int, filters: int) -> Tensor:
    """``update`` orthogonalised as a matrix, whose rows are along the axis ``filters``; each of several as one."""
    matrix = update.flatten(filters + 1)
    rows, columns = matrix.shape[filters:]
    # A tall matrix has to be larger to change what it computes as much (Jordan et al., 2024).
    scale = math.sqrt(max(1, rows / columns))
    return scale * orthogonalised(matrix, iterations=iterations).reshape(update.shape)


def _rescale(parameter: Tensor, *, filters: int) -> None:
    """Bring ``parameter``, or each of several, to the norm that is the root of its length along ``filters``."""
    axes = tuple(range(filters, parameter.ndim))
    norm = torch.linalg.vector_norm(parameter, dim=axes, keepdim=True) / math.sqrt(parameter.shape[filters])
    # Zeros have no norm, and stay as they are.
    parameter.div_(norm.clamp(min=torch.finfo(norm.dtype).tiny))


def _with_momentum(gradient: Tensor, buffer: Tensor, momentum: Number) -> Tensor:
    """The sum of gradients, each ``momentum`` times the one before it, as it will be one gradient later."""
    own = fit(momentum, gradient)
    return sum_scaled(gradient, buffer.mul_(own).add_(gradient), own)


class Muon(torch.optim.Optimizer):
    """``muon`` of groups of parameters."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        """Each of ``groups`` has ``params``, and beside them what the rule takes of each parameter."""
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            buffers = [self._buffer(parameter) for parameter in parameters]
            of_each = {name: [value] * len(parameters) for name, value in group.items() if name not in ("params", "lr")}
            # The number of steps is of no use to it.
            state = RuleState(torch.zeros(()), {"momentum_buffer": buffers})
            muon(parameters, gradients, state, lr=group["lr"], **of_each)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
