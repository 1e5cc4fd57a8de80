"""Reading the data of runs: values, ranking, and the settings that differ."""

from pathlib import Path

import pytest

from digitlab.core.errors import RunError
from digitlab.report.records import differing_settings, rank_runs, read_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def records(make_run, folder):
    made = [
        make_run(folder / "a", "optimizer.lr=0.1", "seed=1", accuracy=0.8),
        make_run(folder / "b", "optimizer.lr=0.2", "seed=1", "trainer.progress_bar=false", accuracy=0.9),
        make_run(folder / "c", "seed=1", result=False, accuracy=0.85),
        make_run(folder / "d", "seed=1", result=False, epochs=0),
    ]
    return [read_record(run, names_relative_to=folder) for run in made]


def test_runs_are_ranked_by_the_monitored_metric(records):
    assert [record.name for record in rank_runs(records)] == ["b", "c", "a", "d"]
    assert [record.status for record in records] == ["finished", "finished", "unfinished", "unfinished"]
    assert records[3].monitored is None
    assert records[2].monitored == max(row["val/accuracy"] for row in records[2].epochs)


def test_differing_settings_are_overrides_with_different_values(records):
    assert differing_settings(records) == ["optimizer.lr"]
    assert [record.setting("optimizer.lr") for record in records] == [0.1, 0.2, 0.001, 0.001]
    assert records[0].setting("model") == "mlp"
    assert records[0].setting("no.such.key") is None


def test_a_smaller_loss_ranks_first(make_run, folder):
    runs = [
        make_run(folder / f"loss{accuracy}", "monitor.metric=val/loss", accuracy=accuracy) for accuracy in (0.5, 0.9)
    ]
    ranked = rank_runs([read_record(run, names_relative_to=folder) for run in runs])
    assert [record.name for record in ranked] == ["loss0.9", "loss0.5"]


def test_without_validation_there_is_no_best_epoch(make_run, tmp_path):
    run = make_run(tmp_path / "run", epochs=2)
    assert read_record(run, names_relative_to=tmp_path).best_epoch == 2
    run.metrics.write_text("epoch,train/accuracy\n1,0.5\n2,0.6\n")
    assert read_record(run, names_relative_to=tmp_path).best_epoch is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", "{"),
        ("result.json", "[]"),
        ("result.json", '{"metrics": {"val/accuracy": "high"}}'),
        ("result.json", '{"parameters": "many"}'),
        ("result.json", '{"versions": 3}'),
        ("metrics.csv", "epoch,val/accuracy\n1,high\n"),
        ("confusion_matrix.csv", "true,a,b\na,1\n"),
        ("confusion_matrix.csv", ""),
    ],
)
def test_a_damaged_file_is_refused(make_run, tmp_path, file, content):
    run = make_run(tmp_path / "run", epochs=1)
    (run.path / file).write_text(content)
    with pytest.raises((ValueError, RunError)):
        read_record(run, names_relative_to=tmp_path)
