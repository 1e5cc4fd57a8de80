"""What a process does with the work it is given, and what it does when a signal comes."""

import signal

import pytest
from filelock import FileLock, Timeout

from digitlab.core.errors import RunError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Work changes the environment of its process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def queue(monkeypatch):
    """Submitit's handler of the signal before a job's time is over: it queues the job again and ends the process."""
    asked = []

    def requeue(number, frame):
        asked.append(number)
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, requeue)
    yield asked
    signal.signal(signal.SIGUSR2, before)


def test_work_sees_the_gpu_it_is_given(batch):
    (seen,) = batch("here").with_environment({"CUDA_VISIBLE_DEVICES": "2"})()
    assert seen["CUDA_VISIBLE_DEVICES"] == "2"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_that_finds_no_run_listening_ends_the_work(number, batch, queue, monkeypatch):
    waiting = batch("here")
    monkeypatch.setattr(type(waiting.launcher), "here", lambda self: signal.raise_signal(number))
    with pytest.raises(RunError if number == signal.SIGTERM else SystemExit):
        waiting()
    assert queue == ([] if number == signal.SIGTERM else [signal.SIGUSR2])


def test_a_job_whose_time_is_over_saves_its_runs_before_it_is_queued_again(batch, queue, signal_when, tmp_path):
    signal_when(signal.SIGUSR2, [tmp_path / "begun"])
    with pytest.raises(SystemExit):
        batch("train", str(tmp_path / "saved"), str(tmp_path / "begun"))()
    assert (tmp_path / "saved").exists()
    assert queue == [signal.SIGUSR2]


def test_the_handlers_of_signals_are_as_before(batch, queue):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    batch("here")()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before


def test_no_two_processes_are_at_work_on_one_run(batch, tmp_path, monkeypatch):
    waiting = batch("here", number=3)

    def locked(launcher):
        with pytest.raises(Timeout), FileLock(tmp_path / ".locks" / "3.lock", timeout=0):
            pass
        return True

    monkeypatch.setattr(type(waiting.launcher), "here", locked)
    assert waiting() == [True]
    with FileLock(tmp_path / ".locks" / "3.lock", timeout=0):
        pass


def test_what_is_queued_again_is_the_same_work(batch):
    pytest.importorskip("submitit")
    job = batch("here")
    assert job.checkpoint().function is job
