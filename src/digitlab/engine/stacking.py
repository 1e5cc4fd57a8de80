"""Stacks the tensors and settings of a population's members; ``StackedRunner`` uses it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_values(values: Sequence[float | None]) -> Tensor | None:
    """float64 (M,), on the host; None if no member has a value: in a population all have one, or none."""
    present = [value for value in values if value is not None]
    return torch.tensor(present, dtype=torch.float64) if present else None


def stack_tensors(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Stack lists of tensors, one list per member; rows keep their memory layout, for example channels last."""
    stacked = []
    for rows in zip(*tensors, strict=True):
        first = rows[0]
        whole = first.new_empty_strided((len(rows), *first.shape), (first.numel(), *first.stride()))
        stacked.append(torch.stack([tensor.detach() for tensor in rows], out=whole))
    return stacked
