"""Sweeps on a real SLURM cluster that are disturbed: each ends with the table of an undisturbed one.

Nothing runs twice and nothing is lost: no run has two jobs, no epoch before the disturbance is trained again, and no
run starts again that was not disturbed.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time

import pytest

from fixtures.held_sweep import table
from fixtures.waiting import wait_until

# A job takes a whole node, so the two runs are on different ones.
WHOLE_NODE = "cpus_per_task=2"


@pytest.fixture
def check(held_sweep, undisturbed):
    """``check(ended, runs=2, again=[0])``: the sweep is whole, and only the runs ``again`` started a second time."""

    def compare(ended, *, runs=2, jobs=None, again=()):
        seeds = range(runs)
        assert ended.code == 0, ended
        assert table(held_sweep.folder, seeds) == table(undisturbed, seeds)
        assert len(held_sweep.jobs()) == (jobs or runs)
        for seed in seeds:
            log = held_sweep.log(seed)
            assert held_sweep.epochs(seed) == ["1", "2", "3"]
            assert log.count("start") == (2 if seed in again else 1), (seed, log)
            assert log.count("0") == log.count("2") == 1, (seed, log)

    return compare


def skip_delay(cluster, *job_ids):
    """Wait until these jobs are queued again, and let them start soon."""
    for job_id in job_ids:
        wait_until(lambda job_id=job_id: cluster.states()[job_id] == "PENDING")
    cluster.skip_delay(*job_ids)


@pytest.mark.parametrize(
    ("cluster", "partition"),
    [
        ("plain", "cpu"),
        pytest.param("plain", "graceful", marks=pytest.mark.long),
        pytest.param("accounting", "cpu", marks=pytest.mark.long),
        ("accounting", "graceful"),
    ],
    indirect=["cluster"],
)
def test_a_preempted_job_saves_and_resumes(cluster, held_sweep, check, partition):
    """With SIGTERM, or with the signal of the time limit; with a grace time and without."""
    held_sweep.start("0,1", WHOLE_NODE, f"partition={partition}")
    held_sweep.held(0, 1)
    cluster.preempt(held_sweep.job(0))
    skip_delay(cluster, held_sweep.job(0))
    assert held_sweep.status(0) == "stopped"
    ended = held_sweep.finish()
    assert ended.stderr == ""
    check(ended, again=[0])


def test_a_lost_node(cluster, held_sweep, check):
    """The run continues on the node that is left."""
    held_sweep.start("0,1", WHOLE_NODE)
    held_sweep.held(0, 1)
    job = held_sweep.job(0)
    lost = cluster.node(job)
    cluster.lose_node(lost)
    skip_delay(cluster, job)
    held_sweep.open(1)
    wait_until(lambda: cluster.states()[job] == "RUNNING")
    assert cluster.node(job) != lost
    ended = held_sweep.finish()
    assert ended.stderr == ""
    check(ended, again=[0])


def test_a_delayed_requeue(cluster, held_sweep, check):
    """The command waits for a job that the cluster has queued again for later, and does not submit it anew."""
    command = held_sweep.start("0,1", WHOLE_NODE)
    held_sweep.held(0, 1)
    job = held_sweep.job(0)
    cluster.ask("scontrol", "requeue", job)
    wait_until(lambda: cluster.ask("squeue", "--noheader", f"--jobs={job}", "--format=%r").strip() == "BeginTime")
    # Long enough for several questions of the command.
    cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now+10")
    held_sweep.open(1)
    wait_until(lambda: cluster.states()[job] == "RUNNING")
    assert command.running()
    ended = held_sweep.finish()
    assert ended.stderr == ""
    check(ended, again=[0])


def test_a_job_at_its_time_limit(cluster, held_sweep, check):
    """SLURM sends submitit's signal before the limit; the job saves and queues itself again."""
    # The limits are far away until the job is at the gate, so that a slow machine passes too. Submitit counts every
    # signal to jobs of at most ten minutes as one of the time limit.
    held_sweep.start("0,1", WHOLE_NODE, "timeout_min=10", "signal_delay_s=60")
    held_sweep.held(0, 1)
    job = held_sweep.job(0)
    *hours, minutes, _ = cluster.ask("squeue", "--noheader", f"--jobs={job}", "--format=%M").strip().split(":")
    assert not hours
    cluster.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={int(minutes) + 2}")
    wait_until(lambda: cluster.states()[job] == "PENDING")
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    skip_delay(cluster, job)
    assert held_sweep.status(0) == "stopped"
    ended = held_sweep.finish()
    assert ended.stderr == ""
    check(ended, again=[0])
    log = (held_sweep.folder / ".submitit" / job / f"{job}_0_log.err").read_text()
    assert "this job is timed-out" in log, "it counts towards max_num_timeout"


def test_a_limit_of_jobs_at_the_same_time(cluster, held_sweep, check):
    command = held_sweep.start("0,1,2", "array_parallelism=2", "cpus_per_task=1")
    held_sweep.held(0, 1)
    assert sorted(cluster.states().values()) == ["PENDING", "RUNNING", "RUNNING"]
    reason = cluster.ask("squeue", "--noheader", "--array", "--states=PENDING", "--format=%r").split()
    assert set(reason) == {"JobArrayTaskLimit"}
    held_sweep.open()
    running = []
    while command.running():
        running.append(list(cluster.states().values()).count("RUNNING"))
        time.sleep(0.2)
    assert max(running) <= 2
    check(held_sweep.finish(), runs=3)


@pytest.mark.parametrize("cluster", ["plain", pytest.param("accounting", marks=pytest.mark.long)], indirect=True)
def test_dead_and_cancelled_jobs_are_reported_and_run_again(cluster, held_sweep, check):
    command = held_sweep.start("0,1", "cpus_per_task=1")
    held_sweep.held(0, 1)
    dead = {held_sweep.job(0), held_sweep.job(1)}
    os.kill(held_sweep.pid(0), signal.SIGKILL)
    cluster.ask("scancel", held_sweep.job(1))
    ended = command.wait()
    assert ended.code == 1, ended
    lines = ended.stderr.splitlines()
    assert sum("died (FAILED)" in line for line in lines) == 2, "at once, and at the end under a heading"
    assert sum("was cancelled" in line for line in lines) == 2
    assert len(lines) == 5
    held_sweep.start("0,1", "cpus_per_task=1")
    ended = held_sweep.finish()
    assert ended.stderr == ""
    assert not dead & {held_sweep.job(0), held_sweep.job(1)}
    check(ended, jobs=4, again=[0, 1])


@pytest.fixture
def unseen_locks(tmp_path, monkeypatch):
    """Locks always succeed, for the command and its jobs, as on machines that do not see each other's locks."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    library = tmp_path / "flock.so"
    source = "int flock(int file, int operation) { return 0; }"
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=source, text=True, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


@pytest.mark.parametrize("locks", ["seen", pytest.param("unseen", marks=pytest.mark.long)])
def test_a_command_that_is_killed_and_given_again(cluster, held_sweep, check, locks, request):
    """It finds the job that runs and the one that waits, and submits neither again."""
    if locks == "unseen":
        request.getfixturevalue("unseen_locks")
    launcher = ("array_parallelism=1", WHOLE_NODE)
    command = held_sweep.start("0,1", *launcher)
    held_sweep.held(0)
    command.kill()
    command.wait()
    held_sweep.start("0,1", *launcher)
    ended = held_sweep.finish()
    assert ended.stderr == ""
    check(ended)


def test_a_restarted_controller(cluster, held_sweep, check):
    """The runs end while the controller is away; it learns so when it is back, and then the command does."""
    held_sweep.start("0,1", WHOLE_NODE)
    held_sweep.held(0, 1)
    cluster.daemons["slurmctld"].stop()
    held_sweep.open()
    with pytest.raises(subprocess.CalledProcessError):
        cluster.ask("squeue")
    wait_until(lambda: held_sweep.status(0) == held_sweep.status(1) == "finished")
    cluster.daemons["slurmctld"].start()
    ended = held_sweep.finish()
    check(ended)
    lines = ended.stderr.splitlines()
    assert len(lines) <= 1, "the command says so once"
    assert all("SLURM's controller does not answer" in line for line in lines)


def test_a_job_that_is_queued_again_after_its_end(cluster, held_sweep, check):
    """As after a preemption that comes while the job ends: it has nothing to do, and its result stays."""
    held_sweep.start("0,1", WHOLE_NODE)
    held_sweep.held(0, 1)
    first, second = held_sweep.job(0), held_sweep.job(1)
    held_sweep.open(0)
    wait_until(lambda: cluster.states()[first] == "COMPLETED")
    written = (held_sweep.run(0) / "result.json").stat().st_mtime_ns
    cluster.ask("scontrol", "requeue", first)

    def has_ended():
        state = cluster.states()[first]
        if state == "PENDING":
            cluster.skip_delay(first)
        # The command cancels it if it comes first.
        return state in ("COMPLETED", "CANCELLED")

    wait_until(has_ended)
    ended = held_sweep.finish()
    assert ended.stderr == ""
    # Now nobody cancels it.
    cluster.ask("scontrol", "requeue", second)
    skip_delay(cluster, second)
    wait_until(lambda: cluster.states()[second] == "COMPLETED")
    assert (held_sweep.run(0) / "result.json").stat().st_mtime_ns == written
    check(ended)
