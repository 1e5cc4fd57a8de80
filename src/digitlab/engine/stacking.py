"""Stacks the tensors and settings of a population's members, and gives members the data of their stream.

``StackedNetworks``, ``VmapStack`` and ``UpdateFunction`` use it. M members.
"""

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


def view_as_stack(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The tensors of a single member as a stack of one, (1, ...), in the same memory."""
    return [tensor.detach().unsqueeze(0) for member in tensors for tensor in member]


def expand_to_members(streams: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Turn one tensor per stream into (M, ...): each of the ``sizes[stream]`` members has its stream's."""
    expanded = [stream.expand(size, *stream.shape) for stream, size in zip(streams, sizes, strict=True)]
    # ``expand`` copies nothing. With several streams the concatenation does, once per member.
    return expanded[0] if len(expanded) == 1 else torch.cat(expanded)
