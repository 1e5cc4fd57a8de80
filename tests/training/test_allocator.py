"""Large tensors reuse memory that the process keeps; small ones and the user's own thresholds change nothing.

Each test runs in a process of its own, because the setting cannot be undone.
"""

import os
import subprocess
import sys

import pytest

_TENSOR_BYTES = 48 << 20
_FAULTS = """
import resource, sys
import torch
from digitlab.engine.cpu_tuning import keep_large_memory

changed = keep_large_memory(int(sys.argv[1]))
for _ in range(10):  # while the heap grows to its final size
    torch.ones(int(sys.argv[2]) // 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(int(sys.argv[2]) // 4)
print(int(changed), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(told_bytes: int, **environment: str) -> tuple[bool, int]:
    """Whether it changed anything, and the page faults of ten tensors after ten others.

    A freed block is aligned differently from a new one, so the heap may grow a few times before blocks are reused.
    """
    command = [sys.executable, "-c", _FAULTS, str(told_bytes), str(_TENSOR_BYTES)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    text = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout
    changed, count = text.split()
    return bool(int(changed)), int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own thresholds")
def test_large_tensors_reuse_memory():
    changed, count = faults(_TENSOR_BYTES, MALLOC_ARENA_MAX="2")  # which says nothing of thresholds
    unchanged, mapped_anew = faults(1 << 20)
    assert (changed, unchanged) == (True, False)
    assert count < mapped_anew / 5


def test_the_users_own_thresholds_are_kept():
    assert not faults(_TENSOR_BYTES, MALLOC_TRIM_THRESHOLD_="131072")[0]
