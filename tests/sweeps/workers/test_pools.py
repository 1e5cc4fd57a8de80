"""Pools of processes with batches that need no training: joblib, submitit, and scripts in place of SLURM."""

import os
import signal
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import CONF
from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted
from digitlab.core.system import available_cores
from digitlab.sweeps.workers.dispatch import run_jobs
from digitlab.sweeps.workers.pools import JoblibPool, SubmititLocalPool
from hydra_plugins.digitlab_workers import SubmititLocalLauncher, SubmititSlurmLauncher

GPUS = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def launched(kind, name, folder, *, accelerator="auto", **given):
    node = OmegaConf.load(CONF / "hydra" / "launcher" / f"{name}.yaml")
    launcher = kind(**{key: value for key, value in node.items() if key != "_target_"} | given)
    launcher.config = OmegaConf.create(
        {"hydra": {"sweep": {"dir": str(folder)}}, "trainer": {"accelerator": accelerator}}
    )
    return launcher.pool()


@pytest.fixture
def local(tmp_path):
    """Submitit's processes on this machine, two at once, each with its own GPU."""
    pytest.importorskip("submitit")
    pool = launched(SubmititLocalLauncher, "submitit_local", tmp_path)
    return SubmititLocalPool(pool._executor, GPUS)


@pytest.mark.parametrize(("accelerator", "slots"), [("auto", 2), ("cuda", 2), ("cpu", available_cores())])
def test_jobs_that_train_on_the_cpu_take_no_gpu(accelerator, slots, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    environments = launched(SubmititLocalLauncher, "submitit_local", tmp_path, accelerator=accelerator)._environments
    assert len(environments) == slots
    assert all(("CUDA_VISIBLE_DEVICES" in each) == (accelerator != "cpu") for each in environments)


def outcomes(batches, pool):
    return {batch.numbers[0]: outcome for batch, outcome in run_jobs(batches, pool)}


def test_joblib_processes_have_one_gpu_each_and_are_reused(batch):
    pytest.importorskip("joblib")
    done = outcomes([batch("here", number=number) for number in range(5)], JoblibPool(GPUS))
    seen = [returns[0] for returns in done.values()]
    assert sorted(done) == list(range(5))
    assert len({(each["pid"], each["CUDA_VISIBLE_DEVICES"]) for each in seen}) == 2
    assert os.getpid() not in {each["pid"] for each in seen}
    assert not any(each["interruptible"] for each in seen)


def test_a_dead_process_fails_only_its_own_batch(batch):
    pytest.importorskip("joblib")
    batches = [batch("die", number=0), batch("here", number=1), batch("fail", number=2), batch("here", number=3)]
    done = outcomes(batches, JoblibPool(GPUS))
    assert "its process was killed" in str(done[0])
    assert "use fewer processes (hydra.launcher.n_jobs)" in str(done[0])
    assert str(done[2]) == "its process ended with ValueError: no such luck"
    assert all(isinstance(done[number], RunError) for number in (0, 2))
    assert {done[number][0]["CUDA_VISIBLE_DEVICES"] for number in (1, 3)} <= {"0", "1"}


def test_submitit_jobs_have_one_gpu_and_one_process_each(batch, local):
    done = outcomes([batch("here", number=0), batch("fail", number=1), batch("here", number=2)], local)
    assert done[0][0]["CUDA_VISIBLE_DEVICES"] == "0"
    assert isinstance(done[1], RunError)
    log = Path(str(done[1]).rpartition("see ")[2])
    assert "no such luck" in log.read_text()
    assert done[2][0]["pid"] != done[0][0]["pid"]
    assert not done[0][0]["interruptible"]


@pytest.mark.parametrize(("engine", "number"), [("joblib", signal.SIGINT), ("submitit", signal.SIGTERM)])
def test_a_signal_saves_all_running_runs_and_starts_no_other(engine, number, batch, local, signal_when, tmp_path):
    pytest.importorskip(engine)
    saved, started = ([tmp_path / f"{word}{run}" for run in range(3)] for word in ("saved", "started"))
    batches = [batch("train", str(saved[run]), str(started[run]), number=run) for run in range(3)]
    signal_when(number, started[:2])
    failed = []
    with pytest.raises(Interrupted) as stop:
        failed += run_jobs(batches, JoblibPool(GPUS) if engine == "joblib" else local)
    assert failed == []
    assert stop.value.exit_code == 128 + number
    assert [path.exists() for path in saved] == [True, True, False]


SBATCH = """#!{python}
# Runs the jobs of an array one after the other, as a cluster would, and keeps the script.
import os, re, shutil, subprocess, sys
text = open(sys.argv[1]).read()
shutil.copy(sys.argv[1], "{folder}/script")
last = re.search(r"--array=0-([0-9]+)%", text)
tasks = range(int(last[1]) + 1) if last else [None]
print("Submitted batch job 7", flush=True)
for task in tasks:
    names = {{"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}}
    if task is not None:
        names |= {{"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}}
    subprocess.Popen(["bash", sys.argv[1]], env=os.environ | names, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do if [[ $1 == --unbuffered ]]; then shift; else shift 2; fi; done
exec "$@"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with scripts in place of SLURM's commands; its file ``script`` is what was submitted."""
    pytest.importorskip("submitit")
    folder = tmp_path / "cluster"
    folder.mkdir()
    scripts = {"sbatch": SBATCH.format(python=sys.executable, folder=folder), "srun": SRUN, "sacct": "#!/bin/sh\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return folder


def test_a_cluster_gets_one_array_of_jobs_with_their_resources(batch, cluster, tmp_path):
    pool = launched(
        SubmititSlurmLauncher, "submitit_slurm", tmp_path / "sweep", partition="gpu", gpus_per_node=1, cpus_per_task=3,
        array_parallelism=2, setup=["module load cuda"], additional_parameters={"mail-type": "END"},
    )  # fmt: skip
    done = outcomes([batch("here", number=number) for number in range(3)], pool)
    assert sorted(done) == [0, 1, 2]
    assert {returns[0]["OMP_NUM_THREADS"] for returns in done.values()} == {"3"}
    lines = (cluster / "script").read_text().splitlines()
    asked = [
        "--array=0-2%2", "--partition=gpu", "--gpus-per-node=1", "--cpus-per-task=3", "--time=240", "--mem=8GB",
        "--signal=USR2@120", "--mail-type=END", "--job-name=digitlab",
    ]  # fmt: skip
    assert [line for line in asked if f"#SBATCH {line}" not in lines] == []
    assert "module load cuda" in lines
    assert not [line for line in lines if "--account" in line or "--qos" in line]


def test_null_settings_are_left_to_the_cluster(batch, cluster, tmp_path):
    pool = launched(SubmititSlurmLauncher, "submitit_slurm", tmp_path / "sweep", mem_gb=None)
    assert list(outcomes([batch("here")], pool)) == [0]
    script = (cluster / "script").read_text()
    assert not [word for word in ("gpus", "partition", "mem", "constraint", "array") if f"#SBATCH --{word}" in script]


def test_a_refused_submission_is_one_line_that_names_the_settings_to_check(batch, cluster, tmp_path):
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpux' >&2\nexit 1\n")
    pool = launched(SubmititSlurmLauncher, "submitit_slurm", tmp_path / "sweep", partition="gpux")
    with pytest.raises(
        RunError, match=r"invalid partition specified: gpux.*check hydra\.launcher\.partition"
    ) as caught:
        outcomes([batch("here")], pool)
    assert "\n" not in str(caught.value)
