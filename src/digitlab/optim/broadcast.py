"""Hyper-parameters as update rules take them, and how they meet a parameter.

One is a float, a tensor without dimensions (which a compiled step can be given anew without being compiled again), or
an (M,) tensor, one value a member of a population, whose parameters are stacked, (M, …). Such tensors should be float64
whatever the parameters are, as Python's floats are: in float32, 1 − 0.999 is right to five digits only.
"""

from torch import Tensor

Number = float | Tensor


def is_on(number: Number) -> bool:
    """A tensor may hold zeros for some members, which is for its device to know: it is always on."""
    return isinstance(number, Tensor) or number != 0


def fit(number: Number, parameter: Tensor) -> Number:
    """A hyper-parameter shaped to meet ``parameter``: (M,) becomes (M, 1, …), in the parameter's dtype."""
    if not isinstance(number, Tensor):
        return number
    return number.to(parameter.dtype).reshape(number.shape + (1,) * (parameter.ndim - number.ndim))


def add_scaled(target: Tensor, tensor: Tensor, factor: Number) -> None:
    """``target += factor · tensor`` in one pass."""
    if isinstance(factor, Tensor):
        target.addcmul_(tensor, factor)
    else:
        target.add_(tensor, alpha=factor)


def sum_scaled(first: Tensor, second: Tensor, factor: Number) -> Tensor:
    """``first + factor · second`` in one pass, as a new tensor."""
    return first.addcmul(second, factor) if isinstance(factor, Tensor) else first.add(second, alpha=factor)


def decayed(gradient: Tensor, parameter: Tensor, decay: Number) -> Tensor:
    """The gradient with that of decay/2 · ‖parameter‖², the coupled weight decay, added."""
    return sum_scaled(gradient, parameter, fit(decay, parameter)) if is_on(decay) else gradient
