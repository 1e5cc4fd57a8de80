"""The progress bar as a user sees it, on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from digitlab.config.compose import ROOT


def shown_on_a_terminal(*arguments):
    """What a run writes on a terminal until it ends."""
    ours, theirs = pty.openpty()
    environment = os.environ | {
        "DIGITLAB_ALLOW": "run_callbacks",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    with subprocess.Popen([sys.executable, ROOT / "train.py", *arguments], stderr=theirs, env=environment):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # so ends a terminal on Linux
            os.close(ours)
    return shown.decode()


def test_nothing_is_drawn_below_the_line_that_says_why_a_run_stopped(tmp_path):
    stop = "+callbacks.stop={_target_: run_callbacks.SignalAt, step: 20, number: 2}"
    small = ("trainer=cpu", "data.train_size=1000", "data.batch_size=100", f"hydra.run.dir={tmp_path / 'run'}")
    shown = shown_on_a_terminal(*small, stop)
    assert "epoch 2/20" in shown
    last = shown.splitlines()[-1]
    assert "stopped by SIGINT at epoch " in last
    assert last.endswith(f"resume={tmp_path / 'run'}")
