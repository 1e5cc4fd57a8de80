"""Muon as a torch optimiser: ``optimizers.Muon`` is its schema and says which weights are its own.

``torch.optim.Muon`` takes matrices only; this one takes filters too, and beside them what descends as usual.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Of the quintic a x + b x³ + c x⁵: chosen by Jordan et al. (2024) for a steep start, so that small singular values grow
# at once; those near 1 are sent about it, not to it.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, *, iterations: int) -> Tensor:
    """``matrix`` (rows, columns) with all its singular values brought near 1, its singular vectors as they are.

    By Newton-Schulz iterations on the matrix over its Frobenius norm; after five of them singular values of more than a
    hundredth of that norm lie within 0.7 and 1.2 or so. Zeros stay zeros. On CUDA it is computed in bfloat16,
    whose rounding is less than what the iteration leaves.
    """
    a, b, c = _QUINTIC
    dtype = torch.bfloat16 if matrix.is_cuda else matrix.dtype
    tall = len(matrix) > matrix.shape[1]
    # The products with its transpose are smaller for a wide one.
    near = (matrix.mT if tall else matrix).to(dtype)
    near = near / (near.norm() + 1e-7)
    for _ in range(iterations):
        square = near @ near.mT
        near = torch.addmm(near, torch.addmm(square, square, square, beta=b, alpha=c), near, beta=a)
    return (near.mT if tall else near).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum with Nesterov's look ahead, whose updates are orthogonalised in the groups with ``iterations`` (Muon,
    Jordan et al., 2024), and are left as they are in those without (0).

    A group's learning rate is ``lr`` · ``lr_factor``, so that one schedule of ``lr`` serves all. ``weight_decay`` of
    orthogonalised groups is apart from the update (as in AdamW), of the others a part of the gradient (as in SGD).
    ``unit_filters`` rescales each orthogonalised weight before its update to the root of its number of filters, or of
    rows, which then have a norm of 1 on average: for networks whose norms make its scale meaningless.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        """Each of ``groups`` has ``params``, and all that is named above but ``lr``, and ``momentum``."""
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                change = self._orthogonal if group["iterations"] else self._descend
                change(parameters, [parameter.grad for parameter in parameters], group)

    def _orthogonal(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        lr = group["lr"] * group["lr_factor"]
        updates = self._with_momentum(parameters, gradients, group["momentum"])
        if group["unit_filters"]:
            norms = torch._foreach_norm(parameters)
            torch._foreach_mul_(norms, [1 / math.sqrt(len(parameter)) for parameter in parameters])
            torch._foreach_div_(parameters, norms)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        for parameter, update in zip(parameters, updates, strict=True):
            matrix = update.flatten(1)
            # A tall matrix has to be larger to change what it computes as much (Jordan et al., 2024).
            scale = math.sqrt(max(1, len(matrix) / matrix.shape[1]))
            direction = orthogonalised(matrix, iterations=group["iterations"])
            parameter.add_(direction.view_as(parameter), alpha=-lr * scale)

    def _descend(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        updates = self._with_momentum(parameters, gradients, group["momentum"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"] * group["lr_factor"])

    def _with_momentum(self, parameters: list[Tensor], gradients: list[Tensor], momentum: float) -> list[Tensor]:
        """The sums of gradients, each ``momentum`` times the one before it, as they will be one gradient later."""
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        return list(torch._foreach_add(gradients, buffers, alpha=momentum))
