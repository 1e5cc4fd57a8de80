"""The progress of a run as a user sees it: a bar on a terminal, lines in files and pipes."""

import csv
import os
import pty
from pathlib import Path

import pytest


@pytest.fixture
def shown_on_a_terminal(train_py_started):
    """``shown_on_a_terminal(...)`` is what a run writes on a terminal until it ends."""

    def show(*arguments):
        ours, theirs = pty.openpty()
        environment = {"DIGITLAB_ALLOW": "run_callbacks", "PYTHONPATH": str(Path(__file__).parent)}
        child = train_py_started(*arguments, stderr=theirs, environment=environment)
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # so ends a terminal on Linux
            os.close(ours)
        child.wait()
        return shown.decode()

    return show


@pytest.mark.extra
def test_no_bar_is_drawn_below_the_message_of_a_stopped_run(shown_on_a_terminal, tmp_path):
    stop = "+callbacks.stop={_target_: run_callbacks.SignalAt, step: 20, number: 2}"
    small = ("trainer=cpu", "data.train_size=1000", "data.batch_size=100", f"hydra.run.dir={tmp_path / 'run'}")
    shown = shown_on_a_terminal(*small, stop)
    assert "epoch 2/20" in shown
    last = shown.splitlines()[-1]
    assert "stopped by SIGINT at epoch " in last
    assert last.endswith(f"resume={tmp_path / 'run'}")


@pytest.mark.extra
def test_a_log_file_gets_one_line_per_epoch(train_py, tmp_path):
    folder = tmp_path / "run"
    small = ("trainer=cpu", "model=linear", "trainer.max_epochs=3", "data.train_size=1000", f"hydra.run.dir={folder}")
    log = tmp_path / "nohup.out"
    with log.open("w") as file:
        assert train_py(*small, stdout=file.fileno(), stderr=file.fileno()).returncode == 0
    lines = [line for line in log.read_text().splitlines() if line.startswith("epoch ")]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    names = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    expected = [
        " · ".join(
            [
                f"epoch {row['epoch']}/3",
                f"{float(row['train_seconds']):.1f} s",
                *(f"{name} {float(row[name]):.4f}" for name in names),
            ]
        )
        for row in rows
    ]
    assert len(rows) == 3
    assert lines == expected
    assert f"next: digitlab figures {folder}, or digitlab report {folder}" in log.read_text().splitlines()


def test_a_run_without_a_progress_bar_prints_no_lines(run, capsys):
    run("trainer.max_epochs=1")
    assert "epoch" not in capsys.readouterr().out
