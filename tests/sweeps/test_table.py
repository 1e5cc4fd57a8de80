"""The answer of a sweep whose runs are written by hand: ranking, folding, winner and the forms it takes."""

import csv
import itertools
import random
import shlex

import numpy as np
import pytest

from digitlab.sweeps.report import command, print_report, settings_table, write_report
from digitlab.sweeps.table import SweepTable, in_order

LRS, DROPOUTS, SEEDS = (0.1, 0.01), (0, 0.5), (0, 1, 2)
GRID = list(itertools.product(LRS, DROPOUTS, SEEDS))


def overrides(lr, dropout, seed):
    return [f"optimizer.lr={lr}", f"model.dropout={dropout}", f"seed={seed}"]


@pytest.fixture
def values():
    """The validation accuracy of each cell of the grid."""
    generator = random.Random(1)
    return {cell: generator.uniform(0.8, 0.9) for cell in GRID}


@pytest.fixture
def table(values, written_sweep, finished):
    return SweepTable("grid", written_sweep(*((overrides(*cell), finished(values[cell])) for cell in GRID)))


def test_replicates_fold_into_the_mean_and_deviation_of_numpy(table, values):
    assert table.keys == ["optimizer.lr", "model.dropout"]
    assert len(table.rows) == len(LRS) * len(DROPOUTS)
    for row in table.rows:
        measured = [values[*row.setting, seed] for seed in SEEDS]
        assert row.summary.count == len(SEEDS)
        assert row.summary.mean == pytest.approx(np.mean(measured))
        assert row.summary.sd == pytest.approx(np.std(measured, ddof=1))


def test_the_effect_of_a_value_is_its_marginal_mean(table, values):
    for place, key in enumerate(table.keys):
        assert [value for value, _ in table.effects[key]] == sorted((LRS, DROPOUTS)[place])
        for value, summary in table.effects[key]:
            assert summary.mean == pytest.approx(np.mean([values[cell] for cell in GRID if cell[place] == value]))


def test_the_best_setting_is_first_and_its_best_run_wins(table, values):
    means = [row.summary.mean for row in table.rows]
    assert means == sorted(means, reverse=True)
    best = max((values[*table.rows[0].setting, seed], seed) for seed in SEEDS)
    assert (table.winner.value, table.values[table.winner.entry.number]["seed"]) == best


def test_the_test_set_has_no_say(values, written_sweep, finished, tmp_path):
    def ranking(name, test):
        outcomes = [(overrides(*cell), finished(values[cell], test=test(values[cell]))) for cell in GRID]
        table = SweepTable("grid", written_sweep(*outcomes, folder=tmp_path / name))
        return [row.setting for row in table.rows], table.winner.entry.number, table.effects

    assert ranking("same", lambda value: value) == ranking("opposite", lambda value: 1 - value)


def test_a_smaller_loss_is_better(written_sweep, finished):
    def outcome(dropout, loss):
        return ["monitor.metric=val/loss", f"model.dropout={dropout}"], finished(0.9) | {"metrics": {"val/loss": loss}}

    table = SweepTable("losses", written_sweep(outcome(0, 0.9), outcome(0.5, 0.1)))
    assert table.metric == "val/loss"
    assert [row.setting for row in table.rows] == [(0.5,), (0,)]
    assert table.winner.value == 0.1


def test_a_setting_that_lacks_a_run_does_not_win(written_sweep, finished):
    failed = {"status": "failed", "error": "RunError: the loss is not finite", "metrics": {}}
    table = SweepTable("s", written_sweep(
        (["optimizer.lr=1", "seed=0"], finished(0.99)), (["optimizer.lr=1", "seed=1"], failed),
        (["optimizer.lr=0.1", "seed=0"], finished(0.9)), (["optimizer.lr=0.1", "seed=1"], finished(0.8)),
        (["optimizer.lr=0.01", "seed=0"], {}),
    ))  # fmt: skip
    assert [row.setting for row in table.rows] == [(0.1,), (1,), (0.01,)]
    assert table.winner.value == 0.9
    assert [run.error for run in table.failures()] == ["RunError: the loss is not finite"]


def test_runs_of_a_changed_grid_are_told_apart_by_what_they_did_not_type(written_sweep, finished):
    runs = written_sweep((["seed=0"], finished(0.9)), (["seed=0", "model.dropout=0.5"], finished(0.8)))
    assert [row.setting for row in SweepTable("s", runs).rows] == [(0.0,), (0.5,)]


def test_numbers_are_in_order_and_words_as_they_came():
    assert in_order([0.1, "b", 1e-3, "a", 0, "b"]) == [0, 1e-3, 0.1, "b", "a"]


def test_the_csv_has_a_row_a_run_unrounded(table, values, tmp_path):
    write_report(table, tmp_path)
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["monitored"]) for row in rows] == [values[cell] for cell in GRID]
    assert [int(row["number"]) for row in rows] == list(range(len(GRID)))
    assert {row["status"] for row in rows} == {"finished"}


def test_markdown_and_terminal_show_the_same_rows(table, tmp_path, capsys):
    write_report(table, tmp_path)
    print_report(table)
    shown = capsys.readouterr().out
    text = (tmp_path / "sweep.md").read_text()
    for row in table.rows:
        assert f"| {row.summary.mean:.4f} | ±{row.summary.sd:.4f} |" in text
        assert f"{row.summary.mean:.4f}" in shown
    for form in (text, shown):
        assert command(table.winner) in form
        assert "test/accuracy 0.5000" in form


def test_a_bar_in_a_value_does_not_break_the_table(written_sweep, finished, tmp_path):
    runs = written_sweep((["+note=a|b"], finished(0.9)), (["+note=c"], finished(0.8)))
    write_report(SweepTable("s", runs), tmp_path)
    assert "| a\\|b |" in (tmp_path / "sweep.md").read_text()


def test_the_command_of_the_winner_is_one_a_shell_understands(written_sweep, finished):
    (run,) = written_sweep((["model.hidden=[64,32]", "seed=1"], finished(0.9)))
    assert shlex.split(command(run)) == ["python", "train.py", "model.hidden=[64,32]", "seed=1"]


def test_the_table_tells_after_which_epoch_halving_ended_runs(written_sweep, finished, tmp_path):
    left = finished(0.8) | {"halved_after_epoch": 2}
    runs = written_sweep((["optimizer.lr=0.1"], finished(0.9)), (["optimizer.lr=0.01"], left))
    columns, rows = settings_table(SweepTable("halved", runs))
    assert [row[columns.index("left after epoch")] for row in rows] == ["", "2"]
    assert "left after epoch" not in settings_table(SweepTable("whole", runs[:1]))[0]


def test_the_effect_of_many_numbers_is_told_by_ranges_that_hold_each_run_once(written_sweep, finished):
    rates = [round(0.001 * number, 3) for number in range(1, 15)]
    runs = written_sweep(*(([f"optimizer.lr={rate}"], finished(rate)) for rate in rates))
    rows = SweepTable("search", runs).effect_rows("optimizer.lr")
    assert [label for label, _ in rows] == ["0.001 to 0.003", "0.004 to 0.007", "0.008 to 0.01", "0.011 to 0.014"]
    assert sum(mean.count for _, mean in rows) == len(rates)
    assert [mean.mean for _, mean in rows] == pytest.approx([0.002, 0.0055, 0.009, 0.0125])
    few = SweepTable("grid", runs[:12])
    assert [label for label, _ in few.effect_rows("optimizer.lr")] == [str(rate) for rate in rates[:12]]
