"""Whole sweeps by the command in other processes: with a failed job, as populations, and after a kill."""

import csv
import json
import os
import subprocess
import time

import pytest

TINY = ("data.train_size=100", "data.batch_size=50", "trainer.max_epochs=1")


def table(folder):
    with (folder / "sweep.csv").open() as file:
        return [row["status"] for row in csv.DictReader(file)]


def results(folder):
    return [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*/result.json"))]


@pytest.mark.long
@pytest.mark.extra
def test_a_joblib_sweep_continues_after_a_failed_job(sweep_py, tmp_path):
    pytest.importorskip("joblib")
    folder = tmp_path / "sweep"
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    ended = sweep_py(*TINY, *launcher, "optimizer.lr=0.01,-1", folder=folder)
    assert ended.returncode == 1
    assert table(folder) == ["finished", "failed"]
    assert "1_optimizer.lr=-1 failed: optimizer.lr=-1: must be a number above 0" in ended.stderr
    assert len(ended.stderr.splitlines()) == 3, "at once, and at the end under a heading"


# The other processes import torch and Lightning, which takes 10 s each.
@pytest.mark.long
@pytest.mark.extra
def test_a_population_can_be_one_job_of_submitit(sweep_py, tmp_path):
    pytest.importorskip("submitit")
    folder = tmp_path / "sweep"
    launcher = ("hydra/launcher=vectorized", "hydra.launcher.over=submitit_local")
    command = (*TINY, *launcher, "hydra.launcher.submitit_local.n_jobs=1", "seed=0,1")
    ended = sweep_py(*command, folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert table(folder) == ["finished"] * 2
    assert len(list(folder.glob(".submitit/[0-9]*"))) == 1
    assert [result["metrics"].keys() for result in results(folder)] == [results(folder)[0]["metrics"].keys()] * 2
    assert sweep_py(*command, folder=folder).returncode == 0
    assert len(list(folder.glob(".submitit/[0-9]*"))) == 1


@pytest.mark.extra
def test_a_process_saves_its_run_when_the_command_is_killed(sweep_command, tmp_path):
    pytest.importorskip("joblib")
    folder = tmp_path / "sweep"
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    command = sweep_command(*launcher, "trainer.max_epochs=100000", "early_stopping=null", "seed=0,1", folder=folder)
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: list(folder.glob("0_*/checkpoints/last.ckpt")))
        finally:
            process.kill()
    wait_for(lambda: results(folder))
    assert [result["status"] for result in results(folder)] == ["stopped"]


def wait_for(condition):
    deadline = time.monotonic() + 600
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()
