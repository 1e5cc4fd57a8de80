"""``digitlab sweep`` prints the table of the sweep, or one line if there is no sweep."""

import pytest
from typer.testing import CliRunner

from digitlab.cli.commands import app
from digitlab.core.errors import ConfigError, RunError
from digitlab.sweeps.manifest import create, manifest_file


@pytest.fixture
def sweep():
    """``sweep(folder, ...)`` returns what ``digitlab sweep`` prints and raises what it raises."""

    def run(*arguments):
        ended = CliRunner().invoke(app, ["sweep", *map(str, arguments)])
        if ended.exception is not None:
            raise ended.exception
        return ended.stdout

    return run


def test_it_prints_the_best_run_and_writes_table_and_figures(sweep, written_sweep, finished, tmp_path):
    written_sweep((["optimizer.lr=0.1"], finished(0.8)), (["optimizer.lr=0.01"], finished(0.9)))
    shown = sweep(tmp_path / "sweep")
    assert "best setting (1 run): optimizer.lr=0.01: val/accuracy 0.9000" in shown
    assert "best single run of this setting: run 1, val/accuracy 0.9000 (best checkpoint, epoch 1)" in shown
    written = {path.name for path in (tmp_path / "sweep").iterdir() if not path.name.startswith(".")}
    assert {"sweep.csv", "sweep.md", "figures"} <= written
    figure = tmp_path / "sweep" / "figures" / "by_optimizer.lr.png"
    assert figure.exists()
    assert str(figure.with_suffix(".pdf")) in sweep(tmp_path / "sweep", "--format", "pdf", "--width", "page")
    assert figure.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_a_sweep_without_a_finished_run_says_so(sweep, written_sweep, tmp_path):
    written_sweep((["seed=0"], {}), (["seed=1"], {}))
    shown = sweep(tmp_path / "sweep")
    assert "no run has finished" in shown
    assert "not finished: runs 0, 1" in shown


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(sweep, written_sweep, finished, tmp_path):
    written_sweep((["seed=0"], finished(0.5)), (["seed=1"], finished(0.5)), (["seed=2"], {}))
    result = next((tmp_path / "sweep").glob("1_*")) / "result.json"
    result.write_text("{")
    shown = sweep(tmp_path / "sweep")
    assert "not finished: runs 1, 2" in shown
    assert "  run 1 can't be read: result.json is damaged (" in shown
    assert "run 2 can't" not in shown


def test_a_missing_empty_or_damaged_sweep_is_refused_in_one_line(sweep, tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        sweep(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"is no sweep: it has no sweep\.json"):
        sweep(tmp_path)
    create(tmp_path / "inner", [])
    with pytest.raises(ConfigError, match="the newest sweep in it is inner"):
        sweep(tmp_path)
    create(tmp_path, [])
    with pytest.raises(ConfigError, match="has no runs yet"):
        sweep(tmp_path)
    manifest_file(tmp_path).write_text("{")
    with pytest.raises(RunError, match="is damaged") as caught:
        sweep(tmp_path)
    assert "\n" not in str(caught.value)
