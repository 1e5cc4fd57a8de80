"""Adapts a step to the processor: the work of a forward pass, the number of threads for it, and large allocations.

Runs and populations ask here before they train. The number of threads follows from the work of a step and from the
machine alone, so a resumed run chooses the same number: with another one, sums can differ in their last bits.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# A thread pays off only with at least this much work in a step's forward pass (multiplications and additions): waking
# it costs more than it saves otherwise.
_FLOPS_OF_A_THREAD = 2e6
_THREADS_CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

# glibc maps each allocation above 32 MB (its DEFAULT_MMAP_THRESHOLD_MAX) anew and returns it to the system when it is
# freed. The system then zeroes every page again at its first use: a third of the time of steps with tensors this large.
_ALWAYS_MAPPED_BYTES = 32 << 20
# Parameters of mallopt, and the largest value it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1
_MALLOC_CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


class ForwardCost(NamedTuple):
    """Of the forward pass of one image.

    ``flops`` are multiplications and additions in matrix products and convolutions, ``largest_output`` is the number of
    entries of the largest tensor that a layer hands on.
    """

    flops: int
    largest_output: int


def forward_cost(network: nn.Module, image_shape: Sequence[int], like: Tensor) -> ForwardCost:
    """The work of ``network`` for an image (C, H, W); ``like`` has the device and the dtype of the images."""
    training, sizes = network.training, [0]

    def measure(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, *image_shape, dtype=like.dtype, device=like.device))
    finally:
        for hook in hooks:
            hook.remove()
    network.train(training)
    return ForwardCost(int(counter.get_total_flops()), max(sizes))


def worthwhile_threads(flops: float) -> int:
    """Threads for a step whose forward pass is ``flops``, of those that torch has.

    Whoever sets ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` has chosen.
    """
    available = torch.get_num_threads()
    if any(name in os.environ for name in _THREADS_CHOSEN_BY_USER):
        return available
    return max(1, min(available, int(flops / _FLOPS_OF_A_THREAD)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Have torch use ``count`` threads, and then as many as before."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


def keep_large_memory(tensor_bytes: int) -> bool:
    """Have the process keep what it frees, if its tensors of up to ``tensor_bytes`` would otherwise be mapped anew.

    Returns whether it does from now on: elsewhere than under glibc, or where the user has chosen thresholds by
    variables of the environment, nothing changes.
    """
    if tensor_bytes <= _ALWAYS_MAPPED_BYTES or any(name in os.environ for name in _MALLOC_CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(each, _LARGEST) for each in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
