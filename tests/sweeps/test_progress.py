"""What the one line of a sweep says, from run folders alone."""

import json
import os

import pytest

from digitlab.sweeps.progress import SweepProgress, duration


@pytest.fixture
def tally(written_sweep, finished, tmp_path):
    """Of five jobs two have finished before, one has failed before, one was killed and one has not begun."""
    failed = {"status": "failed", "error": "RunError: no", "metrics": {}}
    runs = written_sweep(
        (["seed=0"], finished(0.8)), (["seed=1"], finished(0.9)), (["seed=2"], failed), (["seed=3"], {}),
        (["seed=9"], finished(0.99)),
    )  # fmt: skip
    for run in runs:
        if run.folder.result.exists():
            os.utime(run.folder.result, (1, 1))
    tally = SweepProgress(tmp_path / "sweep", [[f"seed={seed}"] for seed in range(5)])
    tally.update()
    return tally, runs


def test_the_runs_of_the_command_are_counted_and_no_others(tally):
    tally, _ = tally
    assert (tally.done, tally.failed, tally.left) == (2, 0, 3)
    assert tally.best.value == 0.9
    assert "2 done · 0 failed · 3 left · best val/accuracy 0.9000 (run 1)" in tally.text()


def test_what_has_ended_since_gives_the_pace(tally):
    tally, runs = tally
    assert tally.seconds_left(tally.started_at + 10) is None
    runs[2].folder.result.write_text(json.dumps({"status": "failed", "error": "RunError: no", "metrics": {}}))
    runs[3].folder.result.write_text(runs[1].folder.result.read_text())
    for number in (2, 3):  # the times of files are rounded down
        os.utime(runs[number].folder.result, (tally.started_at + 1, tally.started_at + 1))
    tally.update()
    assert (tally.done, tally.failed, tally.left) == (3, 1, 1)
    assert tally.seconds_left(tally.started_at + 10) == pytest.approx(5)


def test_of_a_run_under_way_its_epochs_count_but_for_those_of_an_earlier_command(written_sweep, tmp_path):
    runs = written_sweep((["seed=0", "trainer.max_epochs=4"], {}), (["seed=1", "trainer.max_epochs=4"], {}))
    runs[0].folder.metrics.write_text("epoch\n1\n")
    tally = SweepProgress(tmp_path / "sweep", [run.entry.overrides for run in runs])
    for run, epochs in zip(runs, (3, 2), strict=True):
        run.folder.metrics.write_text("epoch\n" + "1\n" * epochs)
    tally.update()
    # One run's worth of training, of which two halves are new to each; three quarters of a run are left.
    assert tally.seconds_left(tally.started_at + 20) == pytest.approx(20 * 0.75)


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
