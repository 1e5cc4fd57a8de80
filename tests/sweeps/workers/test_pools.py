"""Pools of processes with batches that need no training: joblib, submitit, and scripts in place of SLURM."""

import os
import re
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import CONF
from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted
from digitlab.core.system import available_cores
from digitlab.sweeps.workers.dispatch import run_jobs
from digitlab.sweeps.workers.pools import JoblibPool, SubmititLocalPool
from digitlab.sweeps.workers.slurm_queue import SlurmQueue
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


@pytest.mark.extra
def test_a_dead_process_fails_only_its_own_batch(batch):
    pytest.importorskip("joblib")
    batches = [batch("die", number=0), batch("here", number=1), batch("fail", number=2), batch("here", number=3)]
    done = outcomes(batches, JoblibPool(GPUS))
    assert "its process was killed" in str(done[0])
    assert "use fewer processes (hydra.launcher.n_jobs)" in str(done[0])
    assert str(done[2]) == "its process ended with ValueError: no such luck"
    assert all(isinstance(done[number], RunError) for number in (0, 2))
    assert {done[number][0]["CUDA_VISIBLE_DEVICES"] for number in (1, 3)} <= {"0", "1"}


@pytest.mark.extra
def test_submitit_jobs_have_one_gpu_and_one_process_each(batch, local):
    done = outcomes([batch("here", number=0), batch("fail", number=1), batch("here", number=2)], local)
    assert done[0][0]["CUDA_VISIBLE_DEVICES"] == "0"
    assert isinstance(done[1], RunError)
    log = Path(str(done[1]).rpartition("see ")[2])
    assert "no such luck" in log.read_text()
    assert done[2][0]["pid"] != done[0][0]["pid"]
    assert not done[0][0]["interruptible"]


@pytest.mark.sample(8)
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


SBATCH = """#!/bin/sh
cp "$1" "{folder}/script"
echo "Submitted batch job 7"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with an ``sbatch`` that runs nothing; its file ``script`` is what was submitted."""
    pytest.importorskip("submitit")
    folder = tmp_path / "cluster"
    folder.mkdir()
    # scontrol does not know the limits.
    scripts = {"sbatch": SBATCH.format(folder=folder), "srun": "#!/bin/sh\n", "scontrol": "#!/bin/sh\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_cluster_gets_one_array_of_jobs_with_their_resources(batch, cluster, tmp_path):
    pool = launched(
        SubmititSlurmLauncher, "submitit_slurm", tmp_path / "sweep", partition="gpu", gpus_per_node=1, cpus_per_task=3,
        array_parallelism=2, setup=["module load cuda"], additional_parameters={"mail-type": "END"},
    )  # fmt: skip
    tasks = pool.start([batch("here", number=number) for number in range(3)])
    assert [task.job_id for task in tasks] == ["7_0", "7_1", "7_2"]
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
    assert [task.job_id for task in pool.start([batch("here")])] == ["7"]
    script = (cluster / "script").read_text()
    assert not [word for word in ("gpus", "partition", "mem", "constraint", "array") if f"#SBATCH --{word}" in script]


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("invalid partition specified: gpux", "partition"),
        ("Invalid account or account/partition combination specified", "account"),
        ("Memory specification can not be satisfied", "mem_gb"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "timeout_min"),
        ("Invalid generic resource (gres) specification", "gpus_per_node"),
        ("Invalid feature specification", "constraint"),
        ("Invalid qos specification", "qos"),
    ],
)
def test_a_refused_submission_is_one_line_that_names_the_key_to_change(said, key, batch, cluster, tmp_path, capfd):
    (cluster / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {said}' >&2\nexit 1\n")
    pool = launched(SubmititSlurmLauncher, "submitit_slurm", tmp_path / "sweep", partition="gpux")
    with pytest.raises(RunError, match=rf"{re.escape(said)}\): check hydra\.launcher\.{key}") as caught:
        pool.start([batch("here")])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_full_queue_is_tried_again_when_there_are_jobs_in_it(batch, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("digitlab.sweeps.workers.slurm_pool.array_size", lambda: 2)
    limit = f"[ -e {cluster}/script ] && echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2 && exit 1\n"
    (cluster / "sbatch").write_text(SBATCH.format(folder=cluster).replace("cp", f"{limit}cp", 1))
    pool = launched(SubmititSlurmLauncher, "submitit_slurm", tmp_path / "sweep")
    waiting = [batch("here", number=number) for number in range(3)]
    assert [task.job_id for task in pool.start(waiting)] == ["7_0", "7_1"]
    assert [each.numbers for each in waiting] == [[2]]


@pytest.mark.parametrize("alive", [True, False])
def test_a_command_that_is_given_again_finds_its_jobs(alive, batch, cluster, tmp_path):
    for command in ("first", "second"):
        pool = launched(SubmititSlurmLauncher, "submitit_slurm", tmp_path / "sweep")
        (task,) = pool.start([batch("here")])
        assert task.job_id == ("7" if command == "first" or alive else "8")
        state = "PENDING" if alive else "CANCELLED"
        (cluster / "squeue").write_text(f"#!/bin/sh\necho '7|{state}'\n")
        (cluster / "squeue").chmod(0o755)
        (cluster / "sbatch").write_text("#!/bin/sh\necho 'Submitted batch job 8'\n")


def test_states_of_jobs_are_known_after_two_answers(monkeypatch):
    clock = [0.0]
    answers = [{"1": "RUNNING"}, None, {"1": "COMPLETING"}, {"1": "NODE_FAIL"}, {"1": "PENDING"}, {"1": "FAILED"}]
    monkeypatch.setattr("digitlab.sweeps.workers.slurm_queue.read_states", lambda ids: answers.pop(0))
    queue = SlurmQueue(clock=lambda: clock[0])
    queue.follow(["1"])
    answers += [{"1": "FAILED"}]
    ended = []
    while answers:
        clock[0] += 20
        queue.refresh()
        ended.append(queue.has_ended("1"))
    assert ended == [False] * 6 + [True], "a node that fails queues its job again"
