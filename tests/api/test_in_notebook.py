"""digitlab in the kernel of a real notebook: what a cell shows, an interrupted cell, and a cell that is run again."""

import os
import time
from queue import Empty

import pytest

from digitlab.config.compose import ROOT

SMALL = (
    '"model=linear", "trainer=cpu", "data.train_size=300", "data.val_size=100", "trainer.limit_test_batches=2", '
    '"early_stopping=null"'
)


class Kernel:
    """The kernel of a notebook, with its working directory in ``folder``."""

    def __init__(self, folder):
        from jupyter_client.manager import start_new_kernel

        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(folder), env=environment)

    def begin(self, code):
        return self.client.execute(code)

    def outputs(self, message_id, *, seconds=120):
        """The messages of a cell until it ends, as pairs (kind, content)."""
        found, deadline = [], time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return found
            if kind not in ("status", "execute_input"):
                found.append((kind, content))
        raise AssertionError(f"the cell did not end in {seconds} s: {found}")

    def run(self, code):
        return self.outputs(self.begin(code))

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    yield kernel
    kernel.close()


@pytest.fixture
def imported(kernel):
    assert kernel.run("import digitlab\ndigitlab.train, digitlab.Run, None")[0][1]["data"]["text/plain"].endswith(
        "None)"
    )


def kinds(outputs):
    return [kind for kind, _ in outputs]


def test_importing_prints_nothing(kernel):
    assert kernel.run("import digitlab\ntrain = digitlab.train") == []


def test_progress_is_one_line_the_cell_can_be_run_again_and_figures_are_pictures(kernel, imported, tmp_path):
    code = f'digitlab.train({SMALL}, "trainer.max_epochs=3", folder="{{folder}}")'
    for name in "ab":
        outputs = kernel.run(code.format(folder=tmp_path / name))
        assert kinds(outputs)[0] == "display_data"
        assert kinds(outputs)[-1] == "execute_result"
        assert set(kinds(outputs)[1:-1]) <= {"update_display_data"}
        lines = [content["data"]["text/plain"] for _, content in outputs[:-1]]
        assert lines[-1].startswith("epoch 3/3 · train/loss")
        assert "finished" in outputs[-1][1]["data"]["text/html"]
    [(kind, figure)] = kernel.run(f'digitlab.open("{tmp_path}/a").figure("history_epochs")')
    assert (kind, "image/png" in figure["data"]) == ("execute_result", True)


def test_a_sweep_shows_one_line_and_a_table(kernel, imported, tmp_path):
    outputs = kernel.run(
        f'digitlab.sweep({SMALL}, "trainer.max_epochs=2", "seed=0,1", "hydra.sweep.dir={tmp_path}/sweep")'
    )
    assert kinds(outputs)[0] == "display_data"
    assert set(kinds(outputs)[1:-1]) <= {"update_display_data"}
    assert "2 done · 0 failed · 0 left" in outputs[-2][1]["data"]["text/plain"]
    assert "2 of 2 runs finished" in outputs[-1][1]["data"]["text/html"]


def test_an_interrupted_cell_saves_the_run_and_says_how_to_resume(kernel, imported, tmp_path):
    folder = tmp_path / "run"
    message_id = kernel.begin(f'digitlab.train({SMALL}, "trainer.max_epochs=100000", folder="{folder}")')
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    kernel.manager.interrupt_kernel()
    kind, error = kernel.outputs(message_id)[-1]
    assert (kind, error["ename"]) == ("error", "Interrupted")
    assert f"saved; to continue: digitlab.resume({str(folder)!r})" in error["evalue"]
    assert len(error["traceback"]) <= 4, "the line of the cell and the message, without the frames of libraries"
    resumed = kernel.run(
        f'run = digitlab.open("{folder}")\nepochs = len(run.history)\nstatus = run.status\n'
        f'run = digitlab.resume("{folder}", max_epochs=epochs + 1)\n(status, run.status, len(run.history) - epochs)'
    )
    assert resumed[-1][1]["data"]["text/plain"] == "('stopped', 'finished', 1)"


def test_a_mistake_is_one_line(kernel, imported):
    (kind, error), *rest = kernel.run('digitlab.train("model=mpl")')
    assert (kind, error["ename"], rest) == ("error", "ConfigError", [])
    assert error["traceback"][-1].startswith("ConfigError: model=mpl: must be one of")
    assert len(error["traceback"]) <= 4
