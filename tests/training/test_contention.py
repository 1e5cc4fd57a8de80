"""The hint that other programs hold the cores of a run."""

import threading
import time
from types import SimpleNamespace

import pytest

from digitlab.training.classifier import Classifier
from digitlab.training.contention import ContentionHint, CpuTimes, is_contended, read_cpu_times

START = CpuTimes(wall=100.0, process=50.0, machine=1000.0, machine_idle=400.0)


def after(seconds, *, used_cores, idle_share):
    machine = 200 * seconds
    return CpuTimes(100 + seconds, 50 + seconds * used_cores, 1000 + machine, 400 + idle_share * machine)


@pytest.mark.parametrize(
    ("threads", "used_cores", "idle_share", "contended"),
    [
        (2, 1.0, 0.0, True),  # half of what two threads need, and nothing is idle
        (2, 1.9, 0.0, False),  # both threads run
        (2, 1.0, 0.45, False),  # the run itself leaves a core idle
        (1, 0.5, 0.0, False),  # fewer threads than one there are not
        (8, 3.0, 0.1, True),
    ],
)
def test_a_run_is_contended_if_its_threads_wait_while_no_core_is_idle(threads, used_cores, idle_share, contended):
    now = after(3, used_cores=used_cores, idle_share=idle_share)
    assert is_contended(START, now, threads=threads) is contended


def test_the_times_of_this_machine_grow():
    before = read_cpu_times()
    sum(range(10**6))
    now = read_cpu_times()
    assert now.wall > before.wall
    assert now.process > before.process
    assert now.machine >= before.machine
    assert now.machine_idle <= now.machine


def trained(hint, *, seconds):
    """Let ``hint`` watch a training of this length with two threads."""
    classifier = Classifier.__new__(Classifier)
    classifier.__dict__["step_threads"] = 2
    hint.on_train_start(SimpleNamespace(), classifier)
    time.sleep(seconds)
    hint.on_train_end(SimpleNamespace(), classifier)


@pytest.mark.parametrize(("used_cores", "count"), [(1.0, 1), (2.0, 0)])
def test_the_hint_comes_once_and_has_the_command(used_cores, count, caplog):
    times = iter([START, after(3, used_cores=used_cores, idle_share=0.0)])
    hint = ContentionHint(["model=lenet", "seed=1"], read=lambda: next(times), seconds=0.01)
    trained(hint, seconds=1)
    assert list(times) == []
    assert len(caplog.messages) == count
    assert all(line.endswith(": OMP_NUM_THREADS=1 python train.py model=lenet seed=1") for line in caplog.messages)


def test_nothing_is_measured_after_the_training(caplog):
    trained(ContentionHint([], read=lambda: pytest.fail("measured"), seconds=60), seconds=0)
    assert "contention hint" not in [thread.name for thread in threading.enumerate()]
    assert caplog.messages == []


def test_a_system_without_these_times_gets_no_hint(caplog):
    trained(ContentionHint([], read=lambda: None, seconds=0.01), seconds=0.2)
    assert caplog.messages == []
