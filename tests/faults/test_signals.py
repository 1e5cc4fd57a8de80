"""After SIGTERM and SIGINT, runs and sweeps are saved, print their position, and exit with 143 or 130."""

import os
import signal
import time

import pytest

from digitlab.core.exit import sigterm_exits
from digitlab.core.signals import Interrupted, StopSignal
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.sweeps.session import SweepSession, report_sweep_at_end, start_sweep
from fixtures.children import Child

LONG = (
    "trainer=cpu", "trainer.progress_bar=false", "model=linear", "data.train_size=2000", "trainer.max_epochs=100000",
    "trainer.limit_val_batches=1", "early_stopping=null",
)  # fmt: skip


@pytest.fixture
def begun(train_py_started, tmp_path):
    """``begun(pattern, ...)`` starts train.py and waits until a file in ``tmp_path`` matches the pattern."""
    children = []

    def start(pattern, *arguments):
        child = train_py_started(*arguments, cwd=tmp_path)
        children.append(child)
        while not any(tmp_path.glob(pattern)):
            assert child.running(), child.wait()
            time.sleep(0.02)
        return child

    yield start
    for child in children:
        if child.running():
            child.send_signal(signal.SIGKILL)
            child.wait()


def stopped(run):
    return run.read_result()["status"] == "stopped" and read_checkpoint(run.last)["global_step"] > 0


def test_a_stopped_run_prints_its_position_and_how_to_resume(begun, tmp_path, one_line):
    run = RunFolder(tmp_path / "run")
    process = begun("run/checkpoints/last.ckpt", *LONG, f"hydra.run.dir={run.path}")
    process.send_signal(signal.SIGTERM)
    ended = process.wait()
    error = ended.stderr
    assert ended.code == 143
    assert one_line(error), error
    assert error.startswith("stopped by SIGTERM at epoch ")
    assert error.rstrip().endswith(f"python train.py resume={run.path}")
    assert stopped(run)


@pytest.mark.sample(2)
@pytest.mark.parametrize("launcher", ["basic", "vectorized"])
def test_the_running_runs_of_a_stopped_sweep_are_saved(begun, tmp_path, launcher):
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    process = begun("sweep/0_*/checkpoints/last.ckpt", "-m", f"hydra/launcher={launcher}", *LONG, "seed=0,1", sweep)
    process.send_signal(signal.SIGINT)
    ended = process.wait()
    error = ended.stderr
    assert ended.code == 130, error
    assert error.endswith("stopped by SIGINT: the unfinished runs are saved; the same command resumes them\n"), error
    assert "Traceback" not in error
    under_way = [RunFolder(path.parent) for path in (tmp_path / "sweep").glob("*/result.json")]
    assert len(under_way) == (1 if launcher == "basic" else 2)
    assert all(stopped(run) for run in under_way)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_between_two_runs_of_a_sweep_says_how_to_resume(tmp_path, number, code):
    def end_of_a_run():
        os.kill(os.getpid(), number)
        time.sleep(5)

    start_sweep(SweepSession(tmp_path, ["seed"], [], planned_runs=None, halving=False))
    with pytest.raises(Interrupted) as caught, sigterm_exits(), report_sweep_at_end():
        end_of_a_run()
    text = f"stopped by {number.name}: the unfinished runs are saved; the same command resumes them"
    assert (str(caught.value), caught.value.exit_code) == (text, code)
    with pytest.raises(SystemExit), report_sweep_at_end():  # without a sweep, nothing changes
        raise SystemExit(code)


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    def never_ending_step():
        with StopSignal():
            os.kill(os.getpid(), signal.SIGTERM)
            (tmp_path / "first").touch()
            time.sleep(600)

    child = Child(never_ending_step)
    while not (tmp_path / "first").exists():
        assert child.running(), child.wait()
        time.sleep(0.005)
    child.send_signal(signal.SIGTERM)
    assert child.wait().code == -signal.SIGTERM
