"""A run needs less than 500 MB of memory beyond the imports of torch and Lightning, and frees it at its end."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digitlab.data.source import ImageSet

# VmHWM is the peak of this program. ru_maxrss of getrusage would include the process that started it.
_RUN = """
import sys
from pathlib import Path

def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

import torch, lightning
before = peak_bytes()
from digitlab.config.compose import compose
from digitlab.training import train
train(compose(sys.argv[2:]), folder=Path(sys.argv[1]))
print(peak_bytes() - before)
"""
_TEN = ("trainer.limit_val_batches=10", "trainer.limit_test_batches=10")


@pytest.fixture(autouse=True)
def read_once():
    """Make each run read its images anew."""


# A new process imports torch and Lightning and reads CIFAR-10: 25 s.
@pytest.mark.extra
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of one program")
def test_an_epoch_on_the_largest_data_set_stays_below_500_mb(data_root, tmp_path):
    settings = ("data=cifar10", "model=mlp", "trainer=cpu", "trainer.max_epochs=1", "trainer.progress_bar=false")
    command = [sys.executable, "-c", _RUN, str(tmp_path / "run"), *settings, f"data.root={data_root}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    # The images alone take 184 MB: a smaller peak would mean that the measurement is wrong.
    assert 184e6 < int(done.stdout.splitlines()[-1]) < 500e6


@pytest.mark.extra
def test_a_finished_run_frees_its_images_without_the_garbage_collector(run):
    def held():
        return sum(type(each) is ImageSet for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = held()
        run("test=best", "trainer.max_steps=2")
        assert held() <= before
    finally:
        gc.enable()
