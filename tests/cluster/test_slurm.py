"""The cluster itself, refused jobs, and work other than single runs, on a real SLURM cluster."""

import csv
import json
import os
import shlex
import signal
import sys

import pytest

from digitlab.config.compose import ROOT
from fixtures.gate import HELD
from fixtures.slurm import missing_slurm, running_cluster
from fixtures.waiting import wait_until

SMALL = (
    "trainer=cpu", "model=linear", "data.train_size=256", "data.val_size=200", "trainer.max_epochs=2", "test=none",
)  # fmt: skip


def listening(pid):
    """The addresses on which a process listens, from the kernel's tables."""
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        target = os.readlink(entry.path)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        with open(f"/proc/{pid}/net/{kind}") as file:
            lines = [line.split() for line in list(file)[1:]]
        # State 0A is LISTEN; a UDP socket that receives from anyone is in state 07.
        found += [line[1].split(":")[0] for line in lines if line[3] in ("0A", "07") and line[9] in inodes]
    return found


@pytest.mark.parametrize("cluster", ["plain", "accounting"], indirect=True)
def test_the_cluster_listens_on_the_loopback_interface_only(cluster, tmp_path):
    """Its daemons, with accounting also the database, and what a job starts."""
    started = tmp_path / "started"
    cluster.ask("sbatch", "--output=/dev/null", f"--wrap=srun sh -c 'touch {started}; exec sleep 600'")
    wait_until(started.exists)
    pids = {daemon.pid for daemon in cluster.daemons.values()} | set(cluster.processes())
    addresses = [address for pid in pids for address in listening(pid)]
    assert len(addresses) >= len(cluster.daemons)
    assert set(addresses) == {"0100007F"}


def test_a_cluster_leaves_no_process_behind():
    if reason := missing_slurm():
        pytest.skip(f"no SLURM cluster: {reason}")
    with running_cluster() as cluster:
        started = cluster.folder / "started"
        cluster.ask("sbatch", "--output=/dev/null", f"--wrap=trap '' TERM; touch {started}; sleep 600; sleep 600")
        wait_until(started.exists)
        # Nobody is left to cancel the job.
        for name in ("slurmctld", "n1", "n2"):
            cluster.daemons[name].stop(signal.SIGKILL)
        assert len(cluster.processes()) >= 3, "munged, slurmstepd and the job"
    assert cluster.processes() == []
    assert not cluster.folder.exists()


def test_a_refused_submission_is_one_line(cluster, held_sweep, one_line):
    ended = held_sweep.start("0,1", "mem_gb=8").wait()
    assert ended.code == 1
    assert one_line(ended.stderr)
    assert "Memory specification can not be satisfied" in ended.stderr
    assert "check hydra.launcher.mem_gb" in ended.stderr


@pytest.mark.long
def test_a_run_on_two_tasks_of_a_job_ends_with_one_line_when_one_dies(cluster, held_sweep, tmp_path, one_line):
    gate = held_sweep.gate
    folder, log, err = tmp_path / "run", tmp_path / "out", tmp_path / "err"
    words = [
        *HELD, "trainer=ddp", "trainer.accelerator=cpu", "trainer.progress_bar=false", f"hydra.run.dir={folder}",
    ]  # fmt: skip
    command = shlex.join([sys.executable, str(ROOT / "train.py"), *words])
    cluster.ask(
        "sbatch", "--nodes=1", "--ntasks-per-node=2", "--output=/dev/null",
        f"--wrap=srun --output={log} --error={err} {command}",
    )  # fmt: skip
    wait_until(lambda: ((gate / "run.rank0").exists() and (gate / "run.rank1").read_text()) or ended(cluster, err))
    os.kill(int((gate / "run.rank1").read_text()), signal.SIGKILL)
    (gate / "open").touch()
    wait_until(lambda: ended(cluster, err))
    said = "\n".join(line for line in err.read_text().splitlines() if not line.startswith("srun: "))
    assert one_line(said)
    assert "another process of this run has died" in said
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"


def ended(cluster, err):
    """Whether the only job has ended; it must have failed."""
    states = set(cluster.states().values())
    assert states <= {"PENDING", "RUNNING", "COMPLETING", "FAILED"}, err.read_text()
    return states == {"FAILED"}


@pytest.mark.long
def test_populations_are_jobs(cluster, tmp_path, background):
    folder = tmp_path / "sweep"
    words = (
        "-m", *SMALL, "hydra.launcher.over=submitit_slurm", "hydra.launcher.submitit_slurm.mem_gb=1",
        "hydra.launcher.submitit_slurm.cpus_per_task=1", "hydra.launcher.submitit_slurm.gpus_per_node=1",
        "hydra.launcher.max_members=8", "data.batch_size=32,64", "seed=0,1", f"hydra.sweep.dir={folder}",
    )  # fmt: skip
    ended = background(*words).wait()
    assert (ended.code, ended.stderr) == (0, "")
    assert len(list(folder.glob(".submitit/[0-9]*_*"))) == 2
    with (folder / "sweep.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished"] * 4
