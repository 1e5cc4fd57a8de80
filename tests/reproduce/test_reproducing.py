"""The runs of ``digitlab reproduce`` and its tables: finished runs are kept, failures are reported."""

import csv
import math
import shutil

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

from digitlab.cli.commands import app
from digitlab.config.compose import CONF
from digitlab.core.errors import RunError
from digitlab.reproduce import runner
from digitlab.reproduce.outcomes import read_outcome
from digitlab.reproduce.registry import rows
from digitlab.reproduce.rendering import write_headers
from digitlab.reproduce.rows import Metric, Row
from digitlab.reproduce.runner import LeftOut, compose, make_runs, run_folder
from digitlab.reproduce.table import Measured
from digitlab.results.folder import find_runs
from digitlab.results.table import run_row

QUICK = ["r1_linear_mse", "r1_test_curve", "r1_pure", "r3_sigmoid30_mse", "r3_sigmoid30_mse_numpy"]


def quick(root, *names, seeds=1):
    chosen = [rows()[name] for name in names]
    return [(row.name, replicate, error) for row, replicate, error in make_runs(chosen, root, seeds=seeds, quick=True)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("reproduce")
    assert quick(root, *QUICK) == [(name, 0, None) for name in QUICK]
    assert quick(root, QUICK[0], seeds=2) == [(QUICK[0], 1, None)], "the first seed is finished"
    return root


@pytest.mark.extra
def test_every_executor_writes_a_run_folder(made):
    runs = find_runs(made)
    assert len(runs) == len(QUICK) + 1
    for run in runs:
        listed = run_row(run)
        assert (listed["status"], listed["data"]) == ("finished", "mnist")
        assert 0 <= listed["test/accuracy"] <= 1
        assert run.confusion.exists()
        assert run.read_result()["seed"] == int(run.path.name.removeprefix("seed"))


def test_numpy_and_lightning_reach_the_same_loss(made):
    ours, numpy = (read_outcome(run_folder(made, rows()[name], 0)) for name in QUICK[3:])
    assert numpy.metrics["test/loss"] == pytest.approx(ours.metrics["test/loss"], rel=1e-5)
    assert numpy.parameters == ours.parameters == 23_860


def test_finished_runs_are_not_made_again(made):
    before = {
        path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file() and ".locks" not in path.parts
    }
    assert quick(made, *QUICK) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_of_another_recipe_is_reported_and_kept(made, tmp_path):
    folder = run_folder(tmp_path, rows()["r3_sigmoid30_mse"], 0)
    shutil.copytree(run_folder(made, rows()["r3_sigmoid30_mse"], 0).path, folder.path)
    config = folder.read_config()
    config.optimizer.lr = 0.5
    OmegaConf.save(config, folder.config)
    [(_, _, error)] = quick(tmp_path, "r3_sigmoid30_mse")
    assert isinstance(error, RunError)
    assert f"{folder.path} was made with another optimizer.lr" in str(error)
    assert folder.result.exists()


def test_changed_keys_keep_the_order_of_the_configuration():
    stored, current = (OmegaConf.create({"model": dict.fromkeys("hgfedcba", value), "old": 1}) for value in (0, 1))
    assert runner._changed_keys(stored, current) == [f"model.{key}" for key in "hgfedcba"]


@pytest.mark.sample(2)
@pytest.mark.parametrize("stopped_at", ["the first epoch", "the test"])
def test_a_stopped_run_is_resumed(made, tmp_path, stopped_at):
    folder = run_folder(tmp_path, rows()["r3_sigmoid30_mse"], 0)
    shutil.copytree(run_folder(made, rows()["r3_sigmoid30_mse"], 0).path, folder.path)
    folder.result.unlink()
    if stopped_at == "the first epoch":
        folder.last.unlink()
    assert quick(tmp_path, "r3_sigmoid30_mse") == [("r3_sigmoid30_mse", 0, None)]
    assert read_outcome(folder).metrics == read_outcome(run_folder(made, rows()["r3_sigmoid30_mse"], 0)).metrics


def test_a_failure_or_a_missing_package_does_not_stop_the_other_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "find_spec", lambda name: None)
    monkeypatch.setenv("DIGITLAB_DATA", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    made = quick(tmp_path / "runs", "r3_xgboost", "r5_fashion_arch1", "r3_sigmoid30_mse_numpy")
    assert [name for name, _, _ in made] == ["r3_xgboost", "r5_fashion_arch1", "r3_sigmoid30_mse_numpy"]
    assert isinstance(made[0][2], LeftOut)
    assert "data.root" in str(made[1][2])


def test_a_diverged_run_is_a_result_and_not_a_failure(tmp_path):
    row = Row(
        name="diverging", report="R0", what="", experiment="r1_linear_mse", overrides=("optimizer.lr=1e30",),
        metrics=(Metric("test/accuracy"),),
    )  # fmt: skip
    assert [error for _, _, error in make_runs([row], tmp_path, seeds=1, quick=True)] == [None]
    outcome = read_outcome(run_folder(tmp_path, row, 0))
    assert outcome.diverged
    assert outcome.value("test/accuracy") == 0.1
    assert math.isnan(outcome.value("test/loss"))
    assert list(make_runs([row], tmp_path, seeds=1, quick=True)) == []


def test_boosted_trees_write_a_result(tmp_path):
    pytest.importorskip("xgboost", reason="the extra `baselines` is not installed")
    row = rows()["r3_xgboost"]
    assert [error for _, _, error in make_runs([row], tmp_path, seeds=3, quick=True)] == [None]
    result = run_folder(tmp_path, row, 0).read_result()
    assert result["metrics"]["test/accuracy"] > 0.3
    assert result["command"] == "digitlab reproduce r3_xgboost --quick"


def test_the_composed_configuration_is_that_of_the_recipe():
    config, choices = compose(rows()["r5_fashion_lr_0.03_he"].command_overrides(2))
    assert (config.optimizer.lr, config.model.init, config.seed) == (0.03, "he", 2)
    assert (choices["data"], choices["model"]) == ("fashion_mnist", "mlp")
    assert "hydra" not in config


def test_the_command_writes_the_tables(made):
    done = CliRunner().invoke(app, ["reproduce", "--table", "--root", str(made)])
    assert done.exit_code == 0, done.output
    assert done.output.split() == [str(made / name) for name in ("table.md", "table.csv", "findings.csv")]
    with (made / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(row.metrics) for row in rows().values())
    measured = Measured(made)
    for line in lines:
        outcomes = measured.outcomes[line["row"]]
        assert int(line["n"]) == sum(line["metric"] in outcome.metrics for outcome in outcomes)
        assert (line["mean"] == "") == (line["n"] == "0")
    text = (made / "table.md").read_text(encoding="utf-8")
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| `")}
    assert widths == {11}
    assert all(f"`{name}`" in text for name in rows())


def test_the_command_says_first_how_many_runs_are_missing(made, digitlab, tmp_path):
    root = shutil.copytree(made, tmp_path / "root")
    code, out, err = digitlab("reproduce", QUICK[0], QUICK[1], "--quick", "--seeds", "2", "--root", root)
    assert (code, err) == (0, f"1 of 4 runs of 2 rows are missing in {root}\n")
    assert out.splitlines()[0] == f"{QUICK[1]} 1: done"
    code, out, err = digitlab("reproduce", QUICK[0], "--quick", "--root", root)
    assert (code, err) == (0, f"0 of 1 runs of 1 rows are missing in {root}\n")


def test_all_rows_begin_with_the_time_they_take(monkeypatch, digitlab, tmp_path):
    monkeypatch.setattr(runner, "make_runs", lambda *_, **__: iter([]))
    code, _, err = digitlab("reproduce", "--root", tmp_path)
    assert code == 0
    assert "rows are missing" in err
    assert "three hours on one core" in err
    assert "digitlab reproduce NAME" in err


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_a_run_with_a_damaged_result_counts_as_missing_and_is_completed(made, tmp_path, content):
    folder = run_folder(tmp_path, rows()["r3_sigmoid30_mse"], 0)
    shutil.copytree(run_folder(made, rows()["r3_sigmoid30_mse"], 0).path, folder.path)
    folder.result.write_text(content)
    assert Measured(tmp_path).outcomes["r3_sigmoid30_mse"] == []
    assert quick(tmp_path, "r3_sigmoid30_mse") == [("r3_sigmoid30_mse", 0, None)]
    assert len(Measured(tmp_path).outcomes["r3_sigmoid30_mse"]) == 1


def test_headers_change_only_where_something_was_measured(made, tmp_path):
    shutil.copytree(CONF / "experiment", tmp_path / "experiment")
    written = write_headers(Measured(made), tmp_path / "experiment")
    assert {path.stem for path in written} == {"r1_linear_mse", "r3_sigmoid30_mse"}
    for path in written:
        now, before = (each.read_text(encoding="utf-8") for each in (path, CONF / "experiment" / path.name))
        assert now.count("#   ours:") == 1
        assert f"(n = {2 if path.stem == QUICK[0] else 1})" in now
        assert now.partition("ours:")[0] == before.partition("ours:")[0]
        assert now.partition("ours:")[2].partition("\n")[2] == before.partition("ours:")[2].partition("\n")[2]
    assert write_headers(Measured(made), tmp_path / "experiment") == []
