"""Estimates lower limits (floors) for the time of a step on this machine, which ``step_profile.py`` shows.

One limit is the arithmetic of the step at the rate of a large matrix product, the other is the bytes that the step
moves at the rate of a large copy.
"""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from bare import network
from workloads import Workload

_SIDE = 1024  # rows and columns of the matrices
_COPIED_FLOATS = 1 << 24  # 64 MiB, more than a processor's cache
_TRIALS = 20
_FLOAT_BYTES = 4


def floors(workload: Workload, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the microseconds per step by arithmetic and by memory, on all threads, with the best rate measured."""
    return {
        "arithmetic": 1e6 * _flops(workload, image_shape) / _flops_per_second(),
        "memory": 1e6 * _bytes(workload, image_shape) / _bytes_per_second(),
    }


def _flops(workload: Workload, image_shape: tuple[int, int, int]) -> int:
    """Return the operations of a step in matrix products and convolutions, forward and backward."""
    model = network(workload, image_shape)
    shape = (torch.Size(image_shape).numel(),) if workload.hidden else image_shape
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(workload.batch_size, *shape)).sum().backward()
    return int(counter.get_total_flops())


def _bytes(workload: Workload, image_shape: tuple[int, int, int]) -> int:
    """Return the bytes that a step moves.

    Images are read as bytes, written once and read twice as floats. Weights are read in forward, backward and update,
    and written by the update; their gradient is written and read.
    """
    pixels = workload.batch_size * torch.Size(image_shape).numel()
    weights = sum(parameter.numel() for parameter in network(workload, image_shape).parameters())
    return pixels * (1 + 3 * _FLOAT_BYTES) + 6 * _FLOAT_BYTES * weights


def _flops_per_second() -> float:
    first, second = torch.rand(2, _SIDE, _SIDE)
    # A multiplication and an addition for each row, column and term.
    return 2 * _SIDE**3 / _best_seconds(lambda: first @ second)


def _bytes_per_second() -> float:
    source, target = torch.rand(2, _COPIED_FLOATS)
    # A copy reads and writes each float.
    return 2 * _FLOAT_BYTES * _COPIED_FLOATS / _best_seconds(lambda: target.copy_(source))


def _best_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_TRIALS):
        started_at = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_at)
    return min(seconds)
