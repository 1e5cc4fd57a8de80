"""Setting the clock back changes nothing: a run compares names and positions, never times, to find the newest file."""

import os
import time

import pytest

from digitlab.training.resuming import resume


@pytest.mark.extra
def test_a_run_resumes_to_the_same_bits_after_the_clock_was_set_back(ready, left, tmp_path, monkeypatch):
    alone, run = ready(tmp_path / "alone"), ready(tmp_path / "run", "trainer.max_epochs=2")
    resume(str(alone.path), [])
    resume(str(run.path), [])
    for path in run.path.rglob("*"):
        os.utime(path, (4e9, 4e9))  # the year 2096
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1e9)
    resume(str(run.path), ["trainer.max_epochs=4"])
    assert left(run) == left(alone)
