"""Whole sweeps by the command: resumed, extended, partly failed, killed, and as a dry run."""

import csv
import json
import os
import random
import re
import shlex
import shutil

import pytest
from filelock import FileLock

from digitlab.config.compose import ROOT

GRID = ("optimizer.lr=0.1,0.01", "seed=0,1")
_TIMES = ("train_seconds",)


def files(folder):
    """Every file of the runs of a sweep, with its bytes and its modification time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*_*/**/*") if path.is_file()}


def table(folder):
    """The rows of ``sweep.csv`` without the columns that depend on the machine."""
    with (folder / "sweep.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in _TIMES} for row in csv.DictReader(file)]


def nearly(values):
    """Equal up to rounding: sums depend on how many runs train together."""
    return pytest.approx(values, rel=1e-5)


def numbers(row):
    """The numeric cells in a row of ``sweep.csv``."""
    return {key: float(value) for key, value in row.items() if re.fullmatch(r"-?\d[\d.]*(e-?\d+)?", value)}


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory, sweep_py):
    """A sweep of four runs without any disturbance, and the output of its command."""
    folder = tmp_path_factory.mktemp("alone") / "sweep"
    ended = sweep_py(*GRID, folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder, ended


@pytest.fixture
def sweep(left_alone, tmp_path):
    """A copy of that sweep for a test to change."""
    shutil.copytree(left_alone[0], tmp_path / "sweep")
    return tmp_path / "sweep"


def test_a_sweep_prints_its_table_and_its_folder_and_nothing_else(left_alone):
    folder, ended = left_alone
    lines = ended.stdout.splitlines()
    assert lines[-1] == str(folder)
    assert sum(line.startswith("best setting (mean of 2 runs): optimizer.lr=") for line in lines) == 1
    assert [row["status"] for row in table(folder)] == ["finished"] * 4
    assert not [line for line in lines if "HYDRA" in line or line.startswith("epoch")]


def test_repeating_the_command_touches_no_run(sweep, sweep_py):
    before, shown = files(sweep), table(sweep)
    ended = sweep_py(*GRID, folder=sweep)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert files(sweep) == before
    assert table(sweep) == shown


def test_only_failed_and_unfinished_runs_run_again(sweep, sweep_py, left_alone):
    runs = sorted(path for path in sweep.iterdir() if path.is_dir())
    (runs[1] / "result.json").write_text(json.dumps({"status": "failed", "error": "RunError: no", "metrics": {}}))
    (runs[2] / "result.json").unlink()
    shutil.rmtree(runs[3])
    kept = {path: content for path, content in files(sweep).items() if runs[0] in path.parents}
    ended = sweep_py(*GRID, folder=sweep)
    assert (ended.returncode, ended.stderr) == (0, "")
    for again, before in zip(table(sweep), table(left_alone[0]), strict=True):
        assert numbers(again) == nearly(numbers(before))
        assert {key: value for key, value in again.items() if key not in numbers(again)}.items() <= before.items()
    assert {path: content for path, content in files(sweep).items() if runs[0] in path.parents} == kept


@pytest.mark.extra
def test_with_a_changed_grid_only_new_runs_run(sweep, sweep_py):
    before = files(sweep)
    ended = sweep_py("optimizer.lr=1e-2,0.003", "seed=1,2", folder=sweep)
    assert (ended.returncode, ended.stderr) == (0, "")
    after = files(sweep)
    assert {path: after[path] for path in before} == before
    numbers = {(float(row["optimizer.lr"]), int(row["seed"])): int(row["number"]) for row in table(sweep)}
    assert numbers == {(0.1, 0): 0, (0.1, 1): 1, (0.01, 0): 2, (0.01, 1): 3, (0.01, 2): 4, (0.003, 1): 5, (0.003, 2): 6}


@pytest.mark.extra
def test_the_printed_command_repeats_the_best_run(left_alone, train_py, tmp_path):
    folder, ended = left_alone
    (again,) = [line.partition("again:")[2] for line in ended.stdout.splitlines() if line.strip().startswith("again:")]
    script = shlex.split(again)
    assert script[:2] == ["python", "train.py"]
    assert train_py(*script[2:], f"hydra.run.dir={tmp_path}/winner").returncode == 0
    best = next(line for line in ended.stdout.splitlines() if line.startswith("best single run of this setting"))
    number = re.search(r": run (\d+),", best)[1]
    (winner,) = folder.glob(f"{number}_*/result.json")
    alone = json.loads((tmp_path / "winner" / "result.json").read_text())
    assert alone["metrics"] == nearly(json.loads(winner.read_text())["metrics"])


@pytest.mark.sample(2)
@pytest.mark.parametrize("launcher", ["basic", "vectorized"])
def test_a_failed_job_is_reported_at_once_in_the_table_and_by_the_exit_code(sweep_py, tmp_path, launcher):
    folder = tmp_path / "sweep"
    arguments = (f"hydra/launcher={launcher}", "model=mlp", "model.hidden=[8]", "model.dropout=1.5,0")
    ended = sweep_py(*arguments, folder=folder)
    assert ended.returncode == 1
    assert [row["status"] for row in table(folder)] == ["failed", "finished"]
    reason = "model.dropout=1.5: must be a number in [0, 1)"
    assert reason in table(folder)[0]["error"]
    assert "failed: run 0" in ended.stdout
    at_once, heading, again = ended.stderr.splitlines()
    assert at_once.startswith(f"0_model.dropout=1.5 failed: {reason}")
    assert heading == f"{folder}: 1 of 2 jobs failed"
    assert reason in again


def test_a_failed_run_of_an_earlier_command_does_not_fail_this_one(sweep, sweep_py):
    (run,) = sweep.glob("0_*")
    (run / "result.json").write_text(json.dumps({"status": "failed", "error": "RunError: no", "metrics": {}}))
    ended = sweep_py("optimizer.lr=0.01", "seed=0,1", folder=sweep)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "failed: run 0: RunError: no" in ended.stdout


MOMENTS = (".hydra/config.yaml", "checkpoints/last.ckpt", "checkpoints/.last.ckpt*", "metrics.csv", "result.json")


@pytest.mark.extra
def test_a_sweep_that_is_killed_repeatedly_ends_with_the_same_table(
    kill_when, left_alone, tmp_path, sweep_py, sweep_command
):
    folder, generator = tmp_path / "sweep", random.Random(0)
    for run, moment in zip((0, 1, 3), generator.sample(MOMENTS, 3), strict=True):
        kill_when(sweep_command(*GRID, folder=folder), folder, f"{run}_*/{moment}")
    ended = sweep_py(*GRID, folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert table(folder) == table(left_alone[0])


# Moments in the life of a population, in order; none of the files exists when the command starts again. Members are
# registered; some members, all members have saved the first epoch; some have saved the second; some have finished. The
# short form of the test uses every other moment.
MOMENTS_TOGETHER = (
    "2_*/.hydra/config.yaml",
    "2_*/checkpoints/last.ckpt",
    "3_*/checkpoints/last.ckpt",
    "2_*/checkpoints/previous.ckpt",
    "0_*/result.json",
)
# Two of the four learning rates leave after the first epoch, and another one after the second.
HALVED = ("optimizer=sgd", "optimizer.lr=0.1,0.01,1e-8,1e-9", "seed=0,1", "sweep.halving=true", "trainer.max_epochs=4")
MOMENTS_HALVED = (
    "2_*/checkpoints/last.ckpt",
    "4_*/result.json",
    "5_*/result.json",
    "[0-3]_*/result.json",
    "sweep.csv",
)


@pytest.mark.long
@pytest.mark.extra
@pytest.mark.parametrize(
    ("arguments", "moments"), [(GRID, MOMENTS_TOGETHER), (HALVED, MOMENTS_HALVED)], ids=["whole", "halved"]
)
def test_a_population_that_is_killed_repeatedly_ends_with_the_same_table(
    kill_when, torture, tmp_path, sweep_py, sweep_command, arguments, moments
):
    folder = tmp_path / "sweep"
    for moment in moments if torture else moments[1::2]:
        kill_when(sweep_command(*arguments, folder=folder), folder, moment)
    for each in (folder, tmp_path / "whole"):
        ended = sweep_py(*arguments, folder=each)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert table(folder) == table(tmp_path / "whole")


def test_two_commands_never_run_the_same_sweep(sweep, sweep_py):
    with FileLock(sweep / ".running.lock"):
        ended = sweep_py(*GRID, folder=sweep)
    assert ended.returncode == 1
    assert (
        ended.stderr
        == f"{sweep}: another process is running this sweep: wait for it, or start another with sweep.name=NAME\n"
    )


def test_a_dry_run_prints_runs_and_estimates_and_writes_nothing(tmp_path, sweep_py):
    folder = tmp_path / "sweep"
    ended = sweep_py(*GRID, "sweep.dry_run=true", folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not folder.exists()
    assert sum("optimizer.lr=" in line for line in ended.stdout.splitlines()) == 4
    assert "4 runs, 0 of them finished before" in ended.stdout
    assert "measured on 50 mini-batches of the first run" in ended.stdout
    assert "MiB" in ended.stdout


@pytest.mark.extra
def test_a_dry_run_of_many_runs_lists_twenty_and_ends_with_the_answer(tmp_path, sweep_py):
    arguments = ("model=linear", "seed=range(30)", "hydra/launcher=basic")
    ended = sweep_py(*arguments, "sweep.dry_run=true", folder=tmp_path / "sweep")
    assert (ended.returncode, ended.stderr) == (0, "")
    *listed, more, count, estimate = ended.stdout.splitlines()
    assert sum("seed=" in line for line in listed) == 20
    assert more == "and 10 more runs: sweep.dry_run=all lists all of them"
    assert count == "30 runs, 0 of them finished before"
    assert estimate.startswith("about ")
    ended = sweep_py(*arguments, "sweep.dry_run=all", folder=tmp_path / "sweep")
    assert sum("seed=" in line for line in ended.stdout.splitlines()) == 30


@pytest.mark.extra
def test_a_dry_run_refuses_halving_exactly_if_the_sweep_does(sweep, tmp_path, sweep_py):
    # Two optimizers form no population, so nothing can be halved. In the old folder, the first run has finished.
    alone = ("optimizer=adam,sgd", "optimizer.lr=0.1", "seed=0", "sweep.halving=true")
    for folder, code in ((tmp_path / "new", 2), (sweep, 0)):
        dry = sweep_py(*alone, "sweep.dry_run=true", folder=folder)
        real = sweep_py(*alone, folder=folder)
        assert (dry.returncode, real.returncode) == (code, code)
        assert [line for line in dry.stderr.splitlines() if line not in real.stderr] == []
    assert "no populations; 1 runs one by one" in dry.stdout


def test_a_dry_run_knows_which_runs_have_finished(sweep, sweep_py):
    before = files(sweep)
    ended = sweep_py("optimizer.lr=0.01,0.3", "seed=0", "sweep.dry_run=true", folder=sweep)
    assert "2 runs, 1 of them finished before" in ended.stdout
    assert files(sweep) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sweep.name=a/b"], "sweep.name=a/b: must be a name"),
        (["sweep.frsh=true"], "sweep.frsh=true: no such key (did you mean `fresh`?)"),
        (["seed=0,0"], "seed=0,0: has 0 twice"),
        (["trainer=ddp", "seed=0,1"], "trainer.strategy=ddp: can't be swept"),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line(arguments, line, sweep_py, tmp_path):
    folder = tmp_path / "out" / "sweep"
    ended = sweep_py(*arguments, folder=folder, small=False)
    assert ended.stderr.startswith(line)
    assert len(ended.stderr.splitlines()) == 1
    assert ended.returncode == 2
    assert not folder.parent.exists()


def test_settings_of_a_sweep_need_a_sweep(train_py, tmp_path):
    ended = train_py("sweep.dry_run=true", f"hydra.run.dir={tmp_path}/run")
    assert ended.stderr == "sweep.dry_run=true: is a setting of a sweep: add -m to the command\n"
    assert ended.returncode == 2
    assert not (tmp_path / "run").exists()


@pytest.fixture
def folder_of(train_py):
    """``folder_of("seed=1", ...)`` is the folder of such a sweep, as Hydra prints it."""

    def ask(*arguments):
        return train_py(*arguments, "--cfg", "hydra", "--package", "hydra.sweep.dir", "--resolve").stdout.strip()

    return ask


def test_the_folder_does_not_depend_on_the_order_of_the_overrides(folder_of):
    one = folder_of("sweep=five_factors", "seed=1", "data=cifar10", "hydra/launcher=basic")
    other = folder_of("data=cifar10", "seed=1", "sweep=five_factors")
    assert one == other == str(ROOT / "outputs" / "sweeps" / "five_factors_data=cifar10_seed=1")


def test_a_long_command_has_a_short_folder_name_of_its_own(folder_of):
    folders = [folder_of("model.hidden=[64,32]", "data.root=/a/long/way", f"data.batch_size={n}") for n in (64, 128)]
    assert len(set(folders)) == 2
    assert all(len(os.path.basename(folder)) <= 100 for folder in folders)


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("launcher", "taken"),
    [("basic", "folder"), ("vectorized", "folder"), ("joblib", "folder"), ("basic", ".hydra"), ("basic", "train.log")],
)
def test_a_file_in_the_place_of_a_run_folder_fails_only_this_job(sweep, sweep_py, launcher, taken):
    run = next(sweep.glob("0_*"))
    if taken == "train.log":
        # As for a run that was killed, because the files of a finished run are not written again.
        (run / "result.json").unlink()
        (run / taken).unlink()
        (run / taken).mkdir()
        wrong = f"{run / taken} is a folder where a file is needed"
    else:
        shutil.rmtree(run)
        wrong = run if taken == "folder" else run / taken
        wrong.parent.mkdir(exist_ok=True)
        wrong.touch()
        wrong = f"{wrong} is a file where a folder is needed"
    ended = sweep_py(*GRID, f"hydra/launcher={launcher}", folder=sweep)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count(f"{run.name} failed: {wrong}") == 1
    assert f"{sweep}: 1 of 4 jobs failed" in ended.stderr
    assert [row["status"] for row in table(sweep)] == ["failed", "finished", "finished", "finished"]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("taken", "reason"),
    [
        ("outputs", "is a file where a folder is needed: move it away"),
        ("outputs/sweep/multirun.yaml", "is a folder where a file is needed: move it away"),
        ("outputs/sweep/.running.lock", "is a folder where a file is needed: move it away"),
    ],
)
def test_a_sweep_whose_place_is_taken_is_refused_in_one_line(sweep_py, one_line, tmp_path, taken, reason):
    path = tmp_path / taken
    if "folder where" in reason:
        path.mkdir(parents=True)
    else:
        path.touch()
    ended = sweep_py(*GRID, folder=tmp_path / "outputs" / "sweep")
    assert one_line(ended.stderr), ended.stderr
    assert f"{path} {reason}" in ended.stderr
