"""Lower limits for the time of a step on this machine, shown by ``step_profile.py``.

They are the step's arithmetic at the rate of a large matrix product, and its bytes at the rate of a large copy.
"""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from bare import network
from workloads import Workload

_SIDE, _COPIED_FLOATS, _TRIALS = 1024, 1 << 24, 20
_FLOAT_BYTES = 4


def floors(workload: Workload, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """Microseconds per step by arithmetic and by memory, on all threads, with the best rate of several trials."""
    return {
        "arithmetic": 1e6 * _flops(workload, image_shape) / _flops_per_second(),
        "memory": 1e6 * _bytes(workload, image_shape) / _bytes_per_second(),
    }


def _flops(workload: Workload, image_shape: tuple[int, int, int]) -> int:
    """Operations of a step in matrix products and convolutions, forward and backward."""
    model = network(workload, image_shape)
    shape = (torch.Size(image_shape).numel(),) if workload.hidden else image_shape
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(workload.batch_size, *shape)).sum().backward()
    return int(counter.get_total_flops())


def _bytes(workload: Workload, image_shape: tuple[int, int, int]) -> int:
    """Bytes that a step moves.

    Images are read as bytes, written once and read twice as floats. Weights are read in forward, backward and update,
    and written by the update; their gradient is written and read.
    """
    pixels = workload.batch_size * torch.Size(image_shape).numel()
    weights = sum(parameter.numel() for parameter in network(workload, image_shape).parameters())
    return pixels * (1 + 3 * _FLOAT_BYTES) + 6 * _FLOAT_BYTES * weights


def _flops_per_second() -> float:
    one, other = torch.rand(2, _SIDE, _SIDE)
    return 2 * _SIDE**3 / _best_seconds(lambda: one @ other)


def _bytes_per_second() -> float:
    source, target = torch.rand(2, _COPIED_FLOATS)
    return 2 * _FLOAT_BYTES * _COPIED_FLOATS / _best_seconds(lambda: target.copy_(source))


def _best_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_TRIALS):
        started_at = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_at)
    return min(seconds)
