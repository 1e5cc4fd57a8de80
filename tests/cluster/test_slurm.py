"""Sweeps on a real SLURM cluster: disturbed in every way, they end with the table of an undisturbed one."""

import csv
import json
import os
import shlex
import signal
import sys

import pytest

from digitlab.config.compose import ROOT
from fixtures.gate import HELD
from fixtures.slurm import wait_until

pytestmark = pytest.mark.xdist_group("cluster")

SMALL = (
    "trainer=cpu", "model=linear", "data.train_size=256", "data.val_size=200", "trainer.max_epochs=2", "test=none",
)  # fmt: skip


def rows(folder, seeds):
    """The rows of the table for some seeds, without the columns that depend on the machine."""
    with (folder / "sweep.csv").open() as file:
        found = [{key: row[key] for key in row if key != "train_seconds"} for row in csv.DictReader(file)]
    return [row for row in found if int(row["seed"]) in seeds]


def epochs(run):
    with (run / "metrics.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def listening(pid):
    """The addresses on which a process listens, from the kernel's tables."""
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        target = os.readlink(entry.path)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with open(f"/proc/{pid}/net/{table}") as file:
            lines = [line.split() for line in list(file)[1:]]
        # State 0A is LISTEN; a UDP socket that receives from anyone is in state 07.
        found += [line[1].split(":")[0] for line in lines if line[3] in ("0A", "07") and line[9] in inodes]
    return found


def test_the_cluster_listens_on_the_loopback_interface_only(cluster):
    addresses = [address for daemon in cluster.daemons.values() for address in listening(daemon.pid)]
    assert len(addresses) >= 3
    assert set(addresses) == {"0100007F"}


def test_a_disturbed_sweep_ends_with_the_same_table(cluster, held_sweep, undisturbed):
    """A preemption, a lost node, a time limit, a killed command and a restarted controller, two jobs at a time."""
    sweep = held_sweep()
    launcher = ("hydra.launcher.array_parallelism=2", "hydra.launcher.cpus_per_task=2")
    command = sweep.start("0,1,2,3", *launcher)
    sweep.held(0, 1)
    array = next(iter(sweep.job_ids())).partition("_")[0]
    assert sorted(cluster.states().values()) == ["PENDING", "PENDING", "RUNNING", "RUNNING"], "array_parallelism=2"
    command.kill()
    command.wait()

    # Preemption: the run saves before its process ends, and the job returns to the queue.
    node = cluster.ask("squeue", "--noheader", f"--jobs={array}_0", "--format=%N").strip()
    assert not (sweep.run(0) / "result.json").exists()
    cluster.ask("sbatch", "--partition=high", f"--nodelist={node}", "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: cluster.states()[f"{array}_0"] == "PENDING")
    wait_until(lambda: '"stopped"' in (sweep.run(0) / "result.json").read_text())
    sweep.leave(0)

    # The same command finds the jobs that are in the queue, and the controller restarts meanwhile.
    command = sweep.start("0,1,2,3", *launcher)
    cluster.daemons["slurmctld"].stop()
    cluster.daemons["slurmctld"].start()
    wait_until(lambda: cluster.ask("scontrol", "ping"))

    # A lost node takes its processes along.
    node = cluster.ask("squeue", "--noheader", f"--jobs={array}_1", "--format=%N").strip()
    cluster.daemons[node].stop(signal.SIGKILL)
    os.kill(sweep.pid(1), signal.SIGKILL)
    cluster.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_until(lambda: cluster.states()[f"{array}_1"] == "PENDING")
    cluster.daemons[node].start()
    cluster.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    sweep.leave(1)

    # The time limit: submitit's signal, as SLURM sends it.
    sweep.held(2)
    cluster.ask("scancel", "--signal=USR2", f"{array}_2")
    wait_until(lambda: cluster.states()[f"{array}_2"] == "PENDING")
    sweep.open()
    cluster.skip_delay(f"{array}_0", f"{array}_1", f"{array}_2")
    code, _, err = command.wait()
    assert (code, err) == (0, "")
    assert rows(sweep.folder, range(4)) == rows(undisturbed, range(4))
    assert len(sweep.job_ids()) == 4
    assert [epochs(sweep.run(seed)) for seed in range(4)] == [epochs(sweep.run(3))] * 4

    # A job that is queued again after its end has nothing to do and says so quickly.
    written = {path: path.stat().st_mtime_ns for path in sweep.folder.glob("*/result.json")}
    cluster.ask("scontrol", "requeue", f"{array}_3")
    cluster.skip_delay(f"{array}_3")
    wait_until(lambda: cluster.states()[f"{array}_3"] == "COMPLETED")
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_dead_jobs_are_reported_and_run_again(cluster, held_sweep, undisturbed):
    sweep = held_sweep()
    command = sweep.start("0,1", "hydra.launcher.cpus_per_task=1")
    sweep.held(0, 1)
    cancelled = next(name for name in sweep.job_ids() if name.endswith("_1"))
    os.kill(sweep.pid(0), signal.SIGKILL)
    cluster.ask("scancel", cancelled)
    code, _, err = command.wait()
    assert code == 1
    lines = err.splitlines()
    assert sum("died (FAILED)" in line for line in lines) == 2, "at once, and at the end under a heading"
    assert sum("was cancelled" in line for line in lines) == 2
    assert len(lines) == 5
    sweep.open()
    code, _, err = sweep.start("0,1", "hydra.launcher.cpus_per_task=1").wait()
    assert (code, err) == (0, "")
    assert rows(sweep.folder, (0, 1)) == rows(undisturbed, (0, 1))


def test_a_refused_submission_is_one_line(cluster, held_sweep, one_line):
    sweep = held_sweep()
    code, _, err = sweep.start("0,1", "hydra.launcher.mem_gb=8").wait()
    assert code == 1
    assert one_line(err)
    assert "Memory specification can not be satisfied" in err
    assert "check hydra.launcher.mem_gb" in err


def test_a_run_on_two_tasks_of_a_job_ends_with_one_line_when_one_dies(cluster, held_sweep, tmp_path, one_line):
    gate = held_sweep().gate
    folder, log, err = tmp_path / "run", tmp_path / "out", tmp_path / "err"
    words = [
        *HELD, "trainer=ddp", "trainer.accelerator=cpu", "trainer.progress_bar=false", f"hydra.run.dir={folder}",
    ]  # fmt: skip
    command = shlex.join([sys.executable, str(ROOT / "train.py"), *words])
    cluster.ask(
        "sbatch", "--nodes=1", "--ntasks-per-node=2", "--export=ALL,MASTER_ADDR=127.0.0.1", "--output=/dev/null",
        f"--wrap=srun --output={log} --error={err} {command}",
    )  # fmt: skip
    wait_until(lambda: (gate / "run.rank0").exists() and (gate / "run.rank1").exists())
    wait_until(lambda: (gate / "run.rank1").read_text())
    os.kill(int((gate / "run.rank1").read_text()), signal.SIGKILL)
    (gate / "open").touch()
    wait_until(lambda: set(cluster.states().values()) == {"FAILED"}, 60)
    said = "\n".join(line for line in err.read_text().splitlines() if not line.startswith("srun: "))
    assert one_line(said)
    assert "another process of this run has died" in said
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"


def test_populations_are_jobs(cluster, tmp_path, background):
    folder = tmp_path / "sweep"
    words = (
        "-m", *SMALL, "hydra.launcher.over=submitit_slurm", "hydra.launcher.submitit_slurm.mem_gb=1",
        "hydra.launcher.submitit_slurm.cpus_per_task=1", "hydra.launcher.submitit_slurm.gpus_per_node=1",
        "hydra.launcher.max_members=8", "data.batch_size=32,64", "seed=0,1", f"hydra.sweep.dir={folder}",
    )  # fmt: skip
    code, _, err = background(*words).wait()
    assert (code, err) == (0, "")
    assert len(list(folder.glob(".submitit/[0-9]*"))) == 2
    assert [row["status"] for row in rows(folder, (0, 1))] == ["finished"] * 4
