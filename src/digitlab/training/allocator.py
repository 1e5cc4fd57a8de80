"""The memory of large steps on a processor, kept for the next one.

glibc maps each allocation beyond 32 MB anew and gives it back when it is freed; the system then zeroes every page again
at its first touch. For steps whose tensors are that large it can be a third of their time.
"""

import ctypes
import os

# From there on glibc maps whatever the program has allocated before (its DEFAULT_MMAP_THRESHOLD_MAX).
_ALWAYS_MAPPED_BYTES = 32 << 20
# Parameters of mallopt, and the largest value it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1
_CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_large_memory(tensor_bytes: int) -> bool:
    """Have the process keep what it frees, if its tensors of up to ``tensor_bytes`` would otherwise be mapped anew.

    Returns whether it does from now on: elsewhere than under glibc, or where the user has chosen thresholds by
    variables of the environment, nothing changes.
    """
    if tensor_bytes <= _ALWAYS_MAPPED_BYTES or any(name in os.environ for name in _CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(each, _LARGEST) for each in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
