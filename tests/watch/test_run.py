"""The state of one run for the live page: whether it trains, how it ended, how long it will take."""

import math
import os
import time

import pytest

from digitlab.core.locks import locked_inodes
from digitlab.results.lock import locked_folder
from digitlab.watch.curves import thinned
from digitlab.watch.run import WatchedRun
from fixtures.run_files import write_epochs, write_result

NOW = 1_000_000.0


@pytest.fixture
def run(tmp_path, begin_run):
    return begin_run(tmp_path / "run", "seed=1", "+optimizer.lr=0.1")


@pytest.fixture
def watched(run):
    return WatchedRun(run.path, "run")


def test_a_run_trains_while_a_process_holds_its_lock(run, watched):
    for _ in range(2):
        with locked_folder(run):
            assert locked_inodes() is None or run.lock.stat().st_ino in locked_inodes()
            assert watched.update(locked_inodes(), time.time())
            assert watched.status == "running"
        watched.update(locked_inodes(), time.time())
        assert watched.status == "unfinished"


def test_a_killed_run_that_this_page_has_seen_training_is_unfinished_at_once(run, watched):
    run.lock.touch()
    inode = run.lock.stat().st_ino
    watched.update(frozenset({inode}), time.time())
    assert watched.status == "running"
    assert watched.update(frozenset(), time.time())
    assert watched.status == "unfinished"


@pytest.mark.parametrize("locked", [None, frozenset()])
def test_a_run_of_another_machine_trains_until_it_is_silent_for_long(run, watched, locked):
    run.lock.touch()
    now = time.time()
    watched.update(locked, now)
    assert watched.status == "running"
    watched.update(locked, now + 60)
    assert watched.status == "running"
    watched.update(locked, now + 100)
    assert watched.status == "unfinished"


@pytest.mark.parametrize("status", ["finished", "failed", "stopped"])
def test_a_run_with_a_result_has_ended_also_while_its_population_holds_its_lock(run, watched, status):
    with locked_folder(run):
        write_result(run, status, 0.9, error="RunError: it failed" if status == "failed" else None)
        watched.update(locked_inodes(), time.time())
        assert watched.record["status"] == status
        assert watched.record["error"] == ("RunError: it failed" if status == "failed" else None)
        assert (watched.record["value"], watched.record["test"]) == (0.9, 0.89)


@pytest.mark.parametrize("status", ["stopped", "failed", "finished"])
def test_a_run_that_was_resumed_or_is_made_longer_trains(run, watched, status):
    write_epochs(run, [0.4, 0.5, 0.6])
    write_result(run, status, 0.6, error="it says so")
    os.utime(run.result, (NOW, NOW))
    watched.update(locked_inodes(), time.time())
    assert watched.status == status
    with locked_folder(run):
        write_epochs(run, [0.4, 0.5, 0.6, 0.7])
        watched.update(locked_inodes(), time.time())
        assert (watched.status, watched.record["error"]) == ("running", None)
        assert (watched.record["epochs"], watched.record["value"]) == (4, 0.7)


def test_the_record_follows_the_epochs(run, watched):
    with locked_folder(run):
        values = []
        for value in (0.5, math.nan, 0.8, 0.7):
            values.append(value)
            write_epochs(run, values)
            assert watched.update(locked_inodes(), time.time())
            assert watched.record["epochs"] == len(values)
        assert (watched.record["value"], watched.record["max_epochs"], watched.record["lr"]) == (0.8, 5, 0.1)
        assert (watched.record["data"], watched.record["model"], watched.record["seed"]) == ("mnist", "mlp", "0")
        assert watched.record["overrides"] == ["seed=1", "+optimizer.lr=0.1"]
        assert [epoch for epoch, _ in watched.record["curve"]] == [1, 2, 3, 4]
        assert not watched.update(locked_inodes(), time.time())


def test_the_time_left_follows_the_pace_of_the_epochs(run, watched):
    inode = None
    for epochs, at in ((1, NOW), (2, NOW + 10), (3, NOW + 20)):
        write_epochs(run, [0.5] * epochs)
        run.lock.touch()
        os.utime(run.lock, (NOW - 7, NOW - 7))
        os.utime(run.metrics, (at, at))
        inode = run.lock.stat().st_ino
        watched.update(frozenset({inode}), at)
        # The first epoch took 7 s since the lock was taken; then the page sees one epoch in 10 s.
        assert watched.ends_at() == pytest.approx(at + (5 - epochs) * (7 if epochs == 1 else 10))
    # Without what the page has seen, a member of a population would look faster than it is: 2 s of training per epoch.
    write_result(run, "finished", 0.9)
    watched.update(frozenset({inode}), time.time())
    assert watched.ends_at() is None


def test_a_run_without_validation_images_is_judged_by_its_training(run, watched):
    text = run.config.read_text()
    assert "  val_size: " in text
    lines = ["  val_size: 0" if line.startswith("  val_size: ") else line for line in text.splitlines()]
    run.config.write_text("\n".join(lines))
    watched.update(None, time.time())
    assert (watched.metric, watched.record["direction"]) == ("train/accuracy", "max")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "finished"}'])
def test_a_result_that_is_damaged_counts_as_none(run, watched, content):
    run.result.write_text(content)
    watched.update(locked_inodes(), time.time())
    assert watched.record["status"] == "unfinished"
    assert "result.json" in watched.record["note"]


def test_a_damaged_table_is_noted_and_a_folder_that_is_gone_is_told(run, watched):
    run.metrics.write_text("epoch,step\n1,2\nx,y\n")
    watched.update(locked_inodes(), time.time())
    assert "line 3: can't be read" in watched.record["note"]
    run.path.rename(run.path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        watched.update(locked_inodes(), time.time())


def test_a_curve_is_thinned_to_means_that_cover_all_points():
    points = [(step, float(step)) for step in range(1, 1001)]
    assert thinned(points[:50], 50) == points[:50]
    few = thinned(points, 60)
    assert len(few) <= 60
    assert few[-1][0] == 1000
    size = 1000 // len(few) + 1
    assert few[0] == (size, (size + 1) / 2)
