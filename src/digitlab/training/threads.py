"""How many of torch's threads a training step has: what a second one would save a small network, waking it costs.

The choice follows from the work of a step and from the machine alone, so that a resumed run makes it again: with
another number of threads sums can differ in their last bits.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# What a thread must have to do, in multiplications and additions of a step's forward pass, to be worth waking.
_FLOPS_OF_A_THREAD = 2e6
_CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def worthwhile_threads(flops: float) -> int:
    """Threads for a step whose forward pass is ``flops``, of those that torch has.

    Whoever sets ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` has chosen.
    """
    available = torch.get_num_threads()
    if any(name in os.environ for name in _CHOSEN_BY_USER):
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
