"""Large tensors reuse memory that the process keeps; small ones and the user's own thresholds change nothing.

The setting cannot be undone, so a process of its own changes it.
"""

import os
import subprocess
import sys

import pytest

from digitlab.engine.cpu_tuning import keep_large_memory

_TENSOR_BYTES = 48 << 20
_FAULTS = """
import resource, sys
import torch
from digitlab.engine.cpu_tuning import keep_large_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(int(sys.argv[1]) // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

unchanged, mapped_anew = keep_large_memory(1 << 20), faults(10)
changed = keep_large_memory(int(sys.argv[1]))
# A freed block is aligned differently from a new one: the heap may grow a few times before blocks are reused.
faults(10)
print(int(unchanged), mapped_anew, int(changed), faults(10))
"""


@pytest.mark.extra
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own thresholds")
def test_only_large_tensors_reuse_memory():
    command = [sys.executable, "-c", _FAULTS, str(_TENSOR_BYTES)]
    # MALLOC_ARENA_MAX says nothing of thresholds.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    clean["MALLOC_ARENA_MAX"] = "2"
    text = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout
    unchanged, mapped_anew, changed, reused = map(int, text.split())
    assert (unchanged, changed) == (False, True)
    assert reused < mapped_anew / 5


def test_the_users_own_thresholds_are_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_large_memory(_TENSOR_BYTES)
