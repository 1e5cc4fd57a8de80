"""The progress line of a sweep, computed from run folders alone."""

import json
import os

import pytest

from digitlab.core.durations import duration
from digitlab.sweeps.progress import SweepProgress


@pytest.fixture
def progress(written_sweep, finished, tmp_path):
    """Five jobs: two finished before, one failed before, one was killed, and one has not started."""
    failed = {"status": "failed", "error": "RunError: no", "metrics": {}}
    runs = written_sweep(
        (["seed=0"], finished(0.8)), (["seed=1"], finished(0.9)), (["seed=2"], failed), (["seed=3"], {}),
        (["seed=9"], finished(0.99)),
    )  # fmt: skip
    for run in runs:
        if run.folder.result.exists():
            os.utime(run.folder.result, (1, 1))
    progress = SweepProgress(tmp_path / "sweep", [[f"seed={seed}"] for seed in range(5)])
    progress.update()
    return progress, runs


def test_only_runs_of_the_command_are_counted(progress):
    progress, _ = progress
    assert (progress.done, progress.failed, progress.left) == (2, 0, 3)
    assert progress.best.value == 0.9
    assert "2 done · 0 failed · 3 left · best single run: 1, val/accuracy 0.9000" in progress.text()


def test_runs_that_ended_since_the_start_give_the_pace(progress):
    progress, runs = progress
    assert progress.seconds_left(progress.started_at + 10) is None
    runs[2].folder.result.write_text(json.dumps({"status": "failed", "error": "RunError: no", "metrics": {}}))
    runs[3].folder.result.write_text(runs[1].folder.result.read_text())
    for number in (2, 3):  # file systems round times down
        os.utime(runs[number].folder.result, (progress.started_at + 1, progress.started_at + 1))
    progress.update()
    assert (progress.done, progress.failed, progress.left) == (3, 1, 1)
    assert progress.seconds_left(progress.started_at + 10) == pytest.approx(5)


def test_epochs_of_unfinished_runs_count_except_those_of_earlier_commands(written_sweep, tmp_path):
    runs = written_sweep((["seed=0", "trainer.max_epochs=4"], {}), (["seed=1", "trainer.max_epochs=4"], {}))
    runs[0].folder.metrics.write_text("epoch\n1\n")
    progress = SweepProgress(tmp_path / "sweep", [run.entry.overrides for run in runs])
    for run, epochs in zip(runs, (3, 2), strict=True):
        run.folder.metrics.write_text("epoch\n" + "1\n" * epochs)
    progress.update()
    # Each run has trained half of its epochs since the start: one whole run together. Three quarters of a run are left.
    assert progress.seconds_left(progress.started_at + 20) == pytest.approx(20 * 0.75)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (250, "4 min 10 s"),
        (3599.7, "1 h 00 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations_are_in_two_units(seconds, text):
    assert duration(seconds) == text
