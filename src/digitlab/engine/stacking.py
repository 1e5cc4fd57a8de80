"""Stacks the tensors and settings of a population's M members, and expands the data of streams to members.

A population trains M networks of one architecture, the members, at once. A stream is the mini-batches that members with
the same seed share. ``StackedNetworks``, ``VmapStack`` and ``UpdateFunction`` use this module, ``stack_networks`` for
an evaluation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_values(values: Sequence[float | None]) -> Tensor | None:
    """Stack the members' values of a setting: float64 (M,), on the host; None if no member has a value.

    In a population, either all members have a value or none has.
    """
    present = [value for value in values if value is not None]
    return torch.tensor(present, dtype=torch.float64) if present else None


def stack_tensors(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Stack lists of tensors, one list per member, to tensors (M, ...).

    The rows keep the memory layout of the tensors, for example channels last.
    """
    stacked = []
    for rows in zip(*tensors, strict=True):
        first = rows[0]
        # Each row has the strides of the member's tensor.
        target = first.new_empty_strided((len(rows), *first.shape), (first.numel(), *first.stride()))
        stacked.append(torch.stack([tensor.detach() for tensor in rows], out=target))
    return stacked


def view_as_stack(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the tensors of a single member as a stack of one, (1, ...), in the same memory."""
    return [tensor.detach().unsqueeze(0) for member in tensors for tensor in member]


def expand_to_members(streams: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Turn one tensor per stream into (M, ...), in which each member has the tensor of its stream.

    ``sizes`` are the numbers of members of the streams, whose members are adjacent.
    """
    expanded = [stream.expand(size, *stream.shape) for stream, size in zip(streams, sizes, strict=True)]
    # ``expand`` copies nothing. With several streams, the concatenation makes one copy per member.
    return expanded[0] if len(expanded) == 1 else torch.cat(expanded)
