"""Adapts training to the CPU: measures the forward pass, chooses the number of threads, and keeps freed memory.

Runs and populations call it before they train. The number of threads depends only on the work of a step and on the
machine, so a resumed run chooses the same number: with another one, sums can differ in their last bits.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from digitlab.core.system import keep_freed_memory
from digitlab.models.layers import evaluating

# One more thread saves time only if the forward pass of a step has at least this much work for it, in multiplications
# and additions.
_FLOPS_PER_THREAD = 2e6
_THREADS_CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

# glibc maps each allocation above 32 MB (its DEFAULT_MMAP_THRESHOLD_MAX) anew and returns it to the system when it is
# freed. The system zeroes every page at its first use, which takes a third of the time of steps with such tensors.
_ALWAYS_MAPPED_BYTES = 32 << 20
_MALLOC_CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


class ForwardCost(NamedTuple):
    """The cost of the forward pass of one image.

    ``flops`` counts multiplications and additions in matrix products and convolutions; ``largest_output`` is the number
    of entries of the largest output of a layer.
    """

    flops: int
    largest_output: int


def forward_cost(network: nn.Module, image_shape: Sequence[int], example: Tensor) -> ForwardCost:
    """Measure ``network``, which does not change, on one image (C, H, W) with the device and dtype of ``example``."""
    sizes = [0]

    def append_size(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    hooks = [module.register_forward_hook(append_size) for module in network.modules()]
    try:
        with evaluating(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *image_shape, dtype=example.dtype, device=example.device))
    finally:
        for hook in hooks:
            hook.remove()
    return ForwardCost(int(counter.get_total_flops()), max(sizes))


def worthwhile_threads(flops: float) -> int:
    """Return the number of threads for a step with ``flops`` in its forward pass, at most as many as torch uses now.

    If the user has set ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS``, torch's number is returned unchanged.
    """
    available = torch.get_num_threads()
    if any(name in os.environ for name in _THREADS_CHOSEN_BY_USER):
        return available
    return max(1, min(available, int(flops / _FLOPS_PER_THREAD)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads within the block."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


def keep_large_memory(tensor_bytes: int) -> bool:
    """Let the process keep the memory that it frees, if tensors of ``tensor_bytes`` would otherwise be mapped anew.

    Return whether it does so from now on. Nothing changes without glibc, or if the user has set thresholds in the
    environment.
    """
    if tensor_bytes <= _ALWAYS_MAPPED_BYTES or any(name in os.environ for name in _MALLOC_CHOSEN_BY_USER):
        return False
    return keep_freed_memory()
