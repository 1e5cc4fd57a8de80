"""Whole searches by the command: trained in populations, killed, resumed, partly failed."""

import csv

import pytest

from digitlab.sweeps.dry_run import dry_run_search

pytest.importorskip("optuna")

SEARCH = (
    "hydra/sweeper=optuna", "hydra/launcher=vectorized", "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "optimizer.weight_decay=0,1e-3", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=4", "seed=0,1",
)  # fmt: skip


def rows(folder):
    """The rows of ``sweep.csv`` without the columns that depend on the machine."""
    with (folder / "sweep.csv").open() as file:
        return [{key: row[key] for key in row if key != "train_seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory, sweep_py):
    """A search of four trials with two seeds each, without any disturbance."""
    folder = tmp_path_factory.mktemp("alone") / "sweep"
    ended = sweep_py(*SEARCH, folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder, ended.stdout


@pytest.mark.extra
def test_a_search_writes_the_folder_and_table_of_a_sweep(left_alone):
    folder, shown = left_alone
    assert [row["status"] for row in rows(folder)] == ["finished"] * 8
    assert len({row["optimizer.lr"] for row in rows(folder)}) == 4
    assert sum(line.startswith("best setting (mean of 2 runs): ") for line in shown.splitlines()) == 1
    assert (folder / "search.db").exists()


@pytest.mark.extra
def test_a_search_that_is_killed_ends_with_the_same_table(left_alone, kill_when, sweep_command, sweep_py, tmp_path):
    folder = tmp_path / "sweep"
    kill_when(sweep_command(*SEARCH, folder=folder), folder, "4_*/checkpoints/last.ckpt")
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    assert finished
    ended = sweep_py(*SEARCH, folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert rows(folder) == rows(left_alone[0])
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


@pytest.mark.extra
def test_a_failed_trial_does_not_end_the_search(sweep_py, tmp_path):
    folder = tmp_path / "sweep"
    grid = ("hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "optimizer.lr=0.01,1e38", "trainer.max_epochs=1")
    ended = sweep_py(*grid, folder=folder)
    assert ended.returncode == 1
    assert sorted(row["status"] for row in rows(folder)) == ["failed", "finished"]
    assert "1 of 2 jobs failed" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["hydra/sweeper=optuna", "optimizer.lr=interval(0.1)"], "optimizer.lr=interval(0.1): "),
        (["hydra/sweeper=optuna", "optimizer.rate=interval(0,1)"], "optimizer.rate="),
        (["sweep.halving=true", "seed=0,1", "hydra/launcher=basic"], "sweep.halving=true: halves populations"),
    ],
)
def test_a_bad_search_is_refused_in_one_line_and_leaves_nothing(arguments, line, sweep_py, tmp_path):
    folder = tmp_path / "out" / "sweep"
    ended = sweep_py(*arguments, folder=folder)
    assert ended.stderr.startswith(line)
    assert len(ended.stderr.splitlines()) == 1
    assert ended.returncode == 2
    assert not folder.parent.exists()


def test_a_dry_run_prints_the_space_and_estimates(plan, loader, tmp_path, capsys):
    small = ("trainer=cpu", "model=linear", "data.train_size=256", "trainer.max_epochs=2")
    made = plan(*small, "optimizer.lr=tag(log,interval(1e-4,1e-1))", "seed=0,1", "hydra.sweeper.n_trials=4")
    dry_run_search(tmp_path / "sweep", made, loader, "train")
    shown = capsys.readouterr().out
    assert not (tmp_path / "sweep").exists()
    assert "4 trials by tpe: 8 runs, 0 of them finished before" in shown
    assert "tag(log,interval(1e-4,1e-1))" in shown
    assert "(16 epochs at most, measured on 50 mini-batches of the first run)" in shown
