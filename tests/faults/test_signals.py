"""After SIGTERM and SIGINT, runs and sweeps are saved, print their position, and exit with 143 or 130."""

import os
import signal
import subprocess
import sys
import time

import pytest

from digitlab.config.compose import ROOT
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

LONG = (
    "trainer=cpu", "trainer.progress_bar=false", "model=linear", "data.train_size=2000", "trainer.max_epochs=100000",
    "trainer.limit_val_batches=1", "early_stopping=null",
)  # fmt: skip


@pytest.fixture
def begun(tmp_path):
    """``begun(pattern, ...)`` starts train.py and waits until a file in ``tmp_path`` matches the pattern."""
    processes = []

    def start(pattern, *arguments):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        while not any(tmp_path.glob(pattern)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def stopped(run):
    return run.read_result()["status"] == "stopped" and read_checkpoint(run.last)["global_step"] > 0


def test_a_stopped_run_prints_its_position_and_how_to_resume(begun, tmp_path, one_line):
    run = RunFolder(tmp_path / "run")
    process = begun("run/checkpoints/last.ckpt", *LONG, f"hydra.run.dir={run.path}")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 143
    assert one_line(error), error
    assert error.startswith("stopped by SIGTERM at epoch ")
    assert error.rstrip().endswith(f"python train.py resume={run.path}")
    assert stopped(run)


@pytest.mark.parametrize("launcher", ["basic", "vectorized"])
def test_the_running_runs_of_a_stopped_sweep_are_saved(begun, tmp_path, launcher):
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    process = begun("sweep/0_*/checkpoints/last.ckpt", "-m", f"hydra/launcher={launcher}", *LONG, "seed=0,1", sweep)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 130, error
    assert "stopped by SIGINT" in error
    assert "Traceback" not in error
    under_way = [RunFolder(path.parent) for path in (tmp_path / "sweep").glob("*/result.json")]
    assert len(under_way) == (1 if launcher == "basic" else 2)
    assert all(stopped(run) for run in under_way)


def test_a_second_signal_ends_the_process_at_once():
    # The process is in a step that never ends.
    code = "import os, signal, time\nfrom digitlab.core.signals import StopSignal\nwith StopSignal():\n"
    code += "    os.kill(os.getpid(), signal.SIGTERM)\n    print('first', flush=True)\n    time.sleep(600)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=600) == -signal.SIGTERM
