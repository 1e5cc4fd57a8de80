"""Losses that are read from event files while these grow, against TensorBoard's own reader."""

import itertools
import random

import numpy as np
import pytest
from tensorboard.summary.writer import event_file_writer

from digitlab.figures.run_data import event_curves
from digitlab.results.events import EVENT_FILES, event_bytes, event_files
from digitlab.results.folder import RunFolder
from digitlab.results.growing_losses import GrowingLosses
from digitlab.results.writer import RunWriter


@pytest.fixture
def written(tmp_path):
    """A run with losses of 60 steps among other events, small and large; and the content of its event file."""
    run = RunFolder(tmp_path / "written")
    writer = RunWriter(run, config={"seed": 0})
    for start in range(0, 60, 20):
        writer.losses((step, 1 / (step + 1)) for step in range(start, start + 20))
        writer.validation({"val/loss": 0.5}, step=start)
        writer.picture("picture", np.zeros((40, 40, 3), np.uint8) + start, step=start)
    writer.close()
    (name,) = (name for name in event_bytes(run.path) if not name.startswith("val/"))
    return run, name, (run.path / name).read_bytes()


def test_all_losses_are_those_of_tensorboard(written):
    run, _, _ = written
    reader = GrowingLosses(run)
    reader.update()
    assert list(reader.losses.items()) == event_curves(run)["train/loss"]


def test_after_any_part_of_the_file_a_growing_reader_equals_a_new_one_and_no_half_record_is_shown(written, tmp_path):
    _, name, content = written
    run = RunFolder(tmp_path / "growing")
    run.path.mkdir()
    growing, order = GrowingLosses(run), random.Random(0)
    for size in [*sorted(order.sample(range(len(content) + 1), 40)), len(content)]:
        (run.path / name).write_bytes(content[:size])
        growing.update()
        new = GrowingLosses(run)
        new.update()
        assert growing.losses == new.losses
        assert growing.losses == {step: pytest.approx(1 / (step + 1)) for step in range(len(growing.losses))}
    assert len(growing.losses) == 60


def test_files_of_the_same_second_are_read_in_the_order_of_their_counters(tmp_path):
    run = RunFolder(tmp_path)
    for counter, loss in ((9, 0.5), (10, 0.25), (101, 0.125)):
        writer = RunWriter(RunFolder(tmp_path / str(counter)), config={"seed": 0})
        writer.losses([(counter, loss), (7, loss)])
        writer.close()
        (path,) = (tmp_path / str(counter)).glob(EVENT_FILES)
        path.rename(tmp_path / f"events.out.tfevents.1700000000.machine-12.7.{counter}")
    assert [path.suffix for _, path in event_files(tmp_path)] == [".9", ".10", ".101"]
    reader = GrowingLosses(run)
    reader.update()
    assert list(reader.losses.items()) == [(7, 0.125), (9, 0.5), (10, 0.25), (101, 0.125)]


def test_tensorboard_reads_the_file_of_a_resumed_run_last(tmp_path, monkeypatch):
    counters = itertools.count(9)
    monkeypatch.setattr(event_file_writer._global_uid, "get", lambda: next(counters))
    names = []
    for _ in range(3):
        run = RunFolder(tmp_path)
        checkpoint = {"rows": [], "events": event_bytes(run.path), "global_step": 1} if names else None
        RunWriter(run, config={"seed": 0}, checkpoint=checkpoint).close()
        names.append(max(path.name for path in tmp_path.glob(EVENT_FILES)))
    assert names == [path.name for _, path in event_files(tmp_path) if path.parent == tmp_path]


def test_files_that_a_resumed_run_has_cut_are_read_anew_and_later_files_count(written, tmp_path):
    run, name, content = written
    reader = GrowingLosses(run)
    reader.update()
    (run.path / name).write_bytes(content[: len(content) // 2])
    reader.update()
    kept = len(reader.losses)
    assert 0 < kept < 60
    later = RunWriter(RunFolder(tmp_path / "later"), config={"seed": 0})
    later.losses([(5, 7.0), (70, 8.0)])
    later.close()
    (path,) = (tmp_path / "later").glob("events*")
    path.rename(run.path / f"{name}.later")
    reader.update()
    assert (reader.losses[5], reader.losses[70], len(reader.losses)) == (7.0, 8.0, kept + 1)
    assert list(reader.losses) == sorted(reader.losses)


def test_nothing_behind_a_damaged_record_is_shown(written):
    run, name, content = written
    reader = GrowingLosses(run)
    middle = len(content) // 2
    (run.path / name).write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    for _ in range(2):
        reader.update()
        assert 0 < len(reader.losses) < 60
        assert reader.losses == {step: pytest.approx(1 / (step + 1)) for step in reader.losses}
