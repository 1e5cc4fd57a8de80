"""Hints at the run that the user probably means: the newest one nearby, within a limited time."""

import itertools
import os
import time

import pytest

from digitlab.config.suggestions import similar_folder
from digitlab.results import run_hints
from digitlab.results.run_hints import nearby_runs, why_no_run, why_no_runs


def begun(path, started_at=0):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text("model: {}")
    os.utime(path / ".hydra", (started_at, started_at))
    return path


def test_runs_are_found_at_any_depth_with_the_newest_last(tmp_path):
    newest, oldest = begun(tmp_path / "a" / "b" / "c", 3), begun(tmp_path / "d", 1)
    begun(tmp_path / "d" / "inside", 9)
    (tmp_path / "file").touch()
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    runs, complete = nearby_runs(tmp_path)
    assert ([run.path for run in runs], complete) == ([oldest, newest], True)
    assert why_no_run(tmp_path, "is no run folder") == f"is no run folder; its newest run is {newest}"


def test_runs_near_the_top_are_found_first_and_the_search_ends_in_time(tmp_path, monkeypatch):
    near = begun(tmp_path / "z", 1)
    begun(tmp_path / "a" / "deep", 2)
    for number in range(300):
        (tmp_path / "a" / "b" / str(number)).mkdir(parents=True)
    # A clock that advances by half a second whenever it is read, so that three folders are searched.
    clock = itertools.count(0, 0.5)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    runs, complete = nearby_runs(tmp_path)
    assert ([run.path for run in runs], complete) == ([near], False)
    assert why_no_run(tmp_path, "none") == f"none; its newest run that was found in 2 seconds is {near}"
    assert why_no_run(tmp_path / "a" / "b", "none") == "none; no run folder was found in it in 2 seconds"


def test_without_runs_there_is_no_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(run_hints, "ROOT", tmp_path)
    assert why_no_run(tmp_path, "none") == "none"
    assert why_no_run(tmp_path / "nowhere", "none") == "there is no such folder"
    (tmp_path / "file").touch()
    assert why_no_run(tmp_path / "file", "none") == "is a file: give the folder of the run"


def test_a_damaged_run_is_not_its_own_hint(tmp_path):
    begun(tmp_path)
    assert why_no_run(tmp_path, "is damaged") == "is damaged"


def test_a_path_inside_a_run_folder_gives_that_folder(tmp_path):
    run = begun(tmp_path / "run")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").touch()
    for path in (run / "checkpoints", run / "checkpoints" / "best.ckpt"):
        assert why_no_run(path, "none") == f"is inside a run folder: give {run}"


@pytest.mark.parametrize("name", ["outputs/mnist-mpl/2", "mnist-mlp"])
def test_a_folder_that_does_not_exist_gets_the_most_similar_run(tmp_path, monkeypatch, name):
    begun(tmp_path / "outputs" / "mnist-mlp" / "2")
    begun(tmp_path / "outputs" / "cifar10-lenet" / "1")
    monkeypatch.setattr(run_hints, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    similar = os.path.join("outputs", "mnist-mlp", "2")
    assert why_no_run(tmp_path / name, "") == f"there is no such folder; the most similar run folder is {similar}"


def test_a_damaged_run_is_told_from_a_folder_without_runs(tmp_path):
    assert why_no_runs(tmp_path) == "contains no run folder"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert why_no_runs(tmp_path).startswith("is a damaged run folder: its .hydra/config.yaml is missing")


def test_hints_show_a_folder_outside_the_current_one_with_its_whole_path(tmp_path, monkeypatch):
    run = begun(tmp_path / "outputs" / "mnist-mlp" / "2")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(run_hints, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert why_no_run(tmp_path / "mlp", "").endswith(f"; the most similar run folder is {run}")
    assert similar_folder("mlp", [run], kind="sweep") == f"; the most similar sweep is {run}"
