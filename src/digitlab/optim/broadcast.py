"""Arithmetic with hyper-parameters that are numbers or tensors; the update rules in ``functional`` and ``muon`` use it.

A hyper-parameter is a float, a scalar tensor (so that a compiled step can be called with another value without
compiling again), or a tensor (M,). The tensor (M,) has one value for each member of a population: M networks that are
trained at once, with parameters that are stacked to (M, …). Such tensors should be float64, as Python floats are,
whatever the dtype of the parameters: in float32, 1 − 0.999 has only five correct digits.
"""

import torch
from torch import Tensor

Number = float | Tensor


def is_on(number: Number) -> bool:
    """Return whether a hyper-parameter such as momentum has an effect: it is a tensor or not zero.

    A tensor counts as on even if all its values are zero; reading them would make the host wait for the device.
    """
    return isinstance(number, Tensor) or number != 0


class Fit:
    """Converts hyper-parameters to a form that broadcasts against a parameter, for all parameters of one update.

    A tensor (M,) becomes (M, 1, …) in the dtype of the parameter; a float stays as it is. The dtype of each tensor is
    converted only once: on a GPU each conversion is a kernel, which takes as long as the update of a small parameter.
    """

    def __init__(self) -> None:
        # The original tensors are kept, too, because the id of a freed tensor could be used again.
        self._converted: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, number: Number, parameter: Tensor) -> Number:
        """Return ``number`` in a form that broadcasts against ``parameter``."""
        if not isinstance(number, Tensor):
            return number
        key = id(number), parameter.dtype
        if key not in self._converted:
            self._converted[key] = number, number.to(parameter.dtype)
        converted = self._converted[key][1]
        return converted.reshape(number.shape + (1,) * (parameter.ndim - number.ndim))


def add_scaled(target: Tensor, tensor: Tensor, factor: Number) -> None:
    """Compute ``target += factor · tensor`` in place and in one pass."""
    if isinstance(factor, Tensor):
        target.addcmul_(tensor, factor)
    else:
        target.add_(tensor, alpha=factor)


def sum_scaled(first: Tensor, second: Tensor, factor: Number) -> Tensor:
    """Return ``first + factor · second`` as a new tensor, computed in one pass."""
    return first.addcmul(second, factor) if isinstance(factor, Tensor) else first.add(second, alpha=factor)


def decayed(gradient: Tensor, parameter: Tensor, decay: Number, fit: Fit) -> Tensor:
    """Add coupled weight decay, ``decay`` · ``parameter`` (the gradient of decay/2 · ‖parameter‖²), to the gradient."""
    return sum_scaled(gradient, parameter, fit(decay, parameter)) if is_on(decay) else gradient
