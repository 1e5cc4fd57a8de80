"""A job batch in its process, and what it does when a signal comes."""

import signal
import sys

import pytest
from filelock import FileLock, Timeout

from digitlab.core.errors import RunError
from digitlab.core.signals import StopSignal


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restore the environment, which a batch changes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def queue(monkeypatch):
    """Submitit's handler for the time limit of a job: it queues the job again and ends the process."""
    asked = []

    def requeue(number, frame):
        asked.append(number)
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, requeue)
    yield asked
    signal.signal(signal.SIGUSR2, before)


def test_a_batch_sees_its_gpu(batch):
    (seen,) = batch("here").with_environment({"CUDA_VISIBLE_DEVICES": "2"})()
    assert seen["CUDA_VISIBLE_DEVICES"] == "2"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_without_a_running_run_ends_the_batch(number, batch, queue, monkeypatch):
    waiting = batch("here")
    monkeypatch.setattr(type(waiting.launcher), "here", lambda self: signal.raise_signal(number))
    with pytest.raises(RunError if number == signal.SIGTERM else SystemExit):
        waiting()
    assert queue == ([] if number == signal.SIGTERM else [signal.SIGUSR2])


def test_at_its_time_limit_a_job_saves_before_it_is_queued_again(batch, queue, signal_when, tmp_path):
    signal_when(signal.SIGUSR2, [tmp_path / "started"])
    with pytest.raises(SystemExit):
        batch("train", str(tmp_path / "saved"), str(tmp_path / "started"))()
    assert (tmp_path / "saved").exists()
    assert queue == [signal.SIGUSR2]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR2])
def test_a_cluster_may_send_two_signals_at_once(first, batch, queue, monkeypatch, tmp_path):
    """A preempted job can get the warning and SIGTERM in the same moment; it still saves."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)

    def run(launcher):
        with StopSignal() as stop_signal:
            signal.raise_signal(first)
            signal.raise_signal(signal.SIGTERM)
            (tmp_path / "saved").touch()
        sys.exit(128 + stop_signal.received)

    waiting = batch("here")
    monkeypatch.setattr(type(waiting.launcher), "here", run)
    with pytest.raises(SystemExit):
        waiting()
    assert (tmp_path / "saved").exists()
    assert queue == ([first] if first == signal.SIGUSR2 else [])


def test_a_job_of_a_cluster_leaves_no_result_when_a_signal_ends_it(batch, queue, monkeypatch):
    """The command asks the cluster whether the job is cancelled or queued again."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    waiting = batch("here")
    monkeypatch.setattr(type(waiting.launcher), "here", lambda self: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        waiting()
    assert stop.value.code == 128 + signal.SIGTERM


def test_signal_handlers_are_restored(batch, queue):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    batch("here")()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before


def test_a_running_batch_locks_its_run_folders(batch, tmp_path, monkeypatch):
    waiting = batch("here", number=3)

    def locked(launcher):
        with pytest.raises(Timeout), FileLock(tmp_path / ".locks" / "3.lock", timeout=0):
            pass
        return True

    monkeypatch.setattr(type(waiting.launcher), "here", locked)
    assert waiting() == [True]
    with FileLock(tmp_path / ".locks" / "3.lock", timeout=0):
        pass


def test_a_requeued_job_is_the_same_batch(batch):
    pytest.importorskip("submitit")
    job = batch("here")
    assert job.checkpoint().function is job
