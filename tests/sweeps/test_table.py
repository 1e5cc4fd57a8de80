"""The result of a sweep whose run folders are written by hand: ranking, replicates, best runs, CSV and Markdown."""

import csv
import itertools
import random
import shlex

import numpy as np
import pytest
from scipy import stats

from digitlab.core.number_list import number_list
from digitlab.sweeps.report import command, effects_table, print_report, settings_table, write_report
from digitlab.sweeps.table import SweepTable

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


def cells(columns, row):
    return dict(zip(columns, row, strict=True))


def test_replicates_are_summarised_as_numpy_does(table, values):
    assert table.keys == ["optimizer.lr", "model.dropout"]
    assert len(table.rows) == len(LRS) * len(DROPOUTS)
    for row in table.rows:
        measured = [values[*row.setting, seed] for seed in SEEDS]
        assert row.summary.count == len(SEEDS)
        assert row.summary.mean == pytest.approx(np.mean(measured))
        assert row.summary.sd == pytest.approx(np.std(measured, ddof=1))


@pytest.mark.parametrize("key", ["seed", "data.fold", "data.split_seed"])
def test_folds_and_split_seeds_are_replicates_like_seeds(key, written_sweep, finished):
    """The setting with the best mean wins, not the setting with the luckiest fold."""
    accuracies = {(0.1, 0): 0.7, (0.1, 1): 0.99, (0.01, 0): 0.9, (0.01, 1): 0.91}
    runs = written_sweep(*(
        (["data.folds=5", f"optimizer.lr={lr}", f"{key}={number}"], finished(value))
        for (lr, number), value in accuracies.items()
    ))  # fmt: skip
    table = SweepTable("folds", runs)
    assert table.keys == ["optimizer.lr"]
    assert [(row.setting, row.summary.count) for row in table.rows] == [((0.01,), 2), ((0.1,), 2)]
    assert [row.summary.mean for row in table.rows] == pytest.approx([0.905, 0.845])
    assert (table.winner.value, table.best_run.value) == (0.91, 0.99)


def test_a_sweep_over_folds_alone_is_one_setting(written_sweep, finished):
    accuracies = [0.9, 0.92, 0.97]
    runs = written_sweep(*((["data.folds=3", f"data.fold={n}"], finished(value))
                           for n, value in enumerate(accuracies)))  # fmt: skip
    (row,) = SweepTable("folds", runs).rows
    assert (row.setting, row.summary.count) == ((), 3)
    assert row.summary.mean == pytest.approx(np.mean(accuracies))


def test_the_effect_of_a_value_is_its_paired_difference(table, values):
    for place, key in enumerate(table.keys):
        reference, other = sorted(table.effects[key], key=lambda effect: not effect.is_reference)
        runs = {value: [values[cell] for cell in GRID if cell[place] == value] for value in (LRS, DROPOUTS)[place]}
        # Settings that share a seed share its luck, so each seed has one difference: the mean over the other key.
        of_seed = {
            value: [[values[cell] for cell in GRID if (cell[place], cell[2]) == (value, seed)] for seed in SEEDS]
            for value in runs
        }
        differences = np.mean(of_seed[other.value], axis=1) - np.mean(of_seed[reference.value], axis=1)
        assert reference.summary.mean == pytest.approx(max(map(np.mean, runs.values())))
        assert other.difference.mean == pytest.approx(differences.mean())
        expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert other.difference.interval == pytest.approx(tuple(expected))
    columns, rows = effects_table(table)
    shown = [cells(columns, row) for row in rows]
    assert [row["difference"] for row in shown].count("reference") == len(table.keys)
    assert {row["pairs"] for row in shown} == {"", str(len(SEEDS))}


def test_runs_that_halving_ended_are_not_paired_with_longer_ones(written_sweep, finished):
    left = finished(0.5) | {"halved_after_epoch": 1}
    runs = written_sweep((["optimizer.lr=0.1"], finished(0.9)), (["optimizer.lr=0.01"], left))
    assert all(effect.difference is None for effect in SweepTable("s", runs).effects["optimizer.lr"])


def test_the_best_setting_is_first_and_its_best_run_is_named(table, values):
    means = [row.summary.mean for row in table.rows]
    assert means == sorted(means, reverse=True)
    best = max((values[*table.rows[0].setting, seed], seed) for seed in SEEDS)
    assert (table.winner.value, table.values[table.winner.entry.number]["seed"]) == best
    assert table.best_run.value == max(values.values())


def test_test_metrics_do_not_change_the_ranking(values, written_sweep, finished, tmp_path):
    def ranking(name, test):
        outcomes = [(overrides(*cell), finished(values[cell], test=test(values[cell]))) for cell in GRID]
        table = SweepTable("grid", written_sweep(*outcomes, folder=tmp_path / name))
        return [row.setting for row in table.rows], table.winner.entry.number, table.effects

    assert ranking("same", lambda value: value) == ranking("opposite", lambda value: 1 - value)


def test_each_setting_shows_mean_and_deviation_of_the_test_metric(written_sweep, finished):
    runs = written_sweep(
        (["optimizer.lr=0.1", "seed=0"], finished(0.9, test=0.8)),
        (["optimizer.lr=0.1", "seed=1"], finished(0.8, test=0.7)),
        (["optimizer.lr=0.01", "seed=0"], finished(0.7, test=0.6)),
    )
    columns, rows = settings_table(SweepTable("s", runs))
    assert [cells(columns, row)["test/accuracy"] for row in rows] == ["0.7500 ±0.0707", "0.6000"]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([0], "0"), ([1, 0], "0, 1"), ([0, 1, 2], "0 to 2"), ([3, 7, 8, 9], "3, 7 to 9"), (range(100), "0 to 99"),
        (range(0, 200, 2), "100 from 0 to 198"), ([5, 5, 1], "1, 5"),
    ],
)  # fmt: skip
def test_long_lists_of_run_numbers_are_shortened(numbers, text):
    assert number_list(list(numbers)) == text


def test_a_setting_with_many_seeds_shows_the_range_of_its_runs(written_sweep, finished):
    runs = written_sweep(*(([f"seed={seed}"], finished(0.5)) for seed in range(8)))
    columns, (row,) = settings_table(SweepTable("s", runs))
    assert (cells(columns, row)["n"], cells(columns, row)["runs"]) == ("8", "0 to 7")


def test_columns_that_no_row_fills_are_left_out(written_sweep, finished):
    runs = written_sweep((["optimizer.lr=0.1"], finished(0.9)), (["optimizer.lr=0.01"], finished(0.8)))
    columns, rows = settings_table(SweepTable("s", runs))
    # Without replicates there are no deviations, and without failures there is nothing to count.
    assert columns == ["optimizer.lr", "val/accuracy", "n", "test/accuracy", "checkpoint", "runs"]
    assert all(len(row) == len(columns) and all(row) for row in rows)
    columns, rows = effects_table(SweepTable("s", runs))
    # One pair has a difference, but no interval.
    assert columns == ["key", "value", "mean val/accuracy", "n", "difference", "pairs"]
    assert [row[-2:] for row in rows] == [["-0.1000", "1"], ["reference", ""]]


def test_numbers_say_which_checkpoint_and_epoch_they_come_from(written_sweep, finished, tmp_path, capsys):
    last = finished(0.9) | {"tested": {"checkpoint": "last", "epoch": 7}, "best_epoch": 4}
    runs = written_sweep(
        (["optimizer.lr=0.1", "seed=0"], last),
        (["optimizer.lr=0.1", "seed=1"], last | {"tested": {"checkpoint": "last", "epoch": 5}}),
        (["optimizer.lr=0.01", "seed=0"], {k: v for k, v in finished(0.1).items() if k != "tested"}),
    )
    table = SweepTable("s", runs)
    columns, rows = settings_table(table)
    assert [cells(columns, row)["checkpoint"] for row in rows] == ["last, epoch 5 to 7", "unknown"]
    print_report(table)
    shown = capsys.readouterr().out
    assert "run 0, val/accuracy 0.9000 (last checkpoint, epoch 7)" in shown
    assert "last.ckpt" in shown
    write_report(table, tmp_path)
    with (tmp_path / "sweep.csv").open() as file:
        tested = [(row["tested_checkpoint"], row["tested_epoch"]) for row in csv.DictReader(file)]
    assert tested == [("last", "7"), ("last", "5"), ("", "")]


def test_the_best_setting_and_the_best_single_run_are_told_apart(written_sweep, finished, capsys):
    accuracies = {(0.1, 0): 0.7, (0.1, 1): 0.99, (0.01, 0): 0.9, (0.01, 1): 0.91}
    outcomes = (([f"optimizer.lr={lr}", f"seed={seed}"], finished(value)) for (lr, seed), value in accuracies.items())
    print_report(SweepTable("s", written_sweep(*outcomes)))
    shown = capsys.readouterr().out
    assert "best setting (mean of 2 runs): optimizer.lr=0.01: val/accuracy 0.9050 ±0.0071" in shown
    assert "best single run of this setting, the luckiest of its replicates: run 3, val/accuracy 0.9100" in shown
    assert "best single run of all: run 1, val/accuracy 0.9900" in shown


def test_data_sets_are_ranked_separately(written_sweep, finished, tmp_path, capsys):
    accuracies = {("mnist", 0.1): 0.99, ("mnist", 0.01): 0.98, ("cifar10", 0.1): 0.5, ("cifar10", 0.01): 0.6}
    outcomes = (([f"data={data}", f"optimizer.lr={lr}"], finished(value)) for (data, lr), value in accuracies.items())
    table = SweepTable("s", written_sweep(*outcomes))
    mnist, cifar = table.by_data_set()
    assert [row.setting for row in mnist.rows] == [(0.1,), (0.01,)]
    assert [row.setting for row in cifar.rows] == [(0.01,), (0.1,)]
    assert (mnist.winner.value, cifar.winner.value) == (0.99, 0.6)
    print_report(table)
    write_report(table, tmp_path)
    for text in (capsys.readouterr().out, (tmp_path / "sweep.md").read_text()):
        assert text.count("best setting (1 run)") == 2


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (["data=folder", "data.path=cats"], ["data=folder", "data.path=cars"], {"FolderData cats", "FolderData cars"}),
        (["data=emnist", "data.split=letters"], ["data=emnist"], {"EmnistData letters", "EmnistData balanced"}),
    ],
)
def test_other_pictures_of_one_kind_are_another_data_set(first, second, names, written_sweep, finished):
    runs = written_sweep((first, finished(0.9)), (second, finished(0.8)))
    assert {part.name for part in SweepTable("s", runs).by_data_set()} == {f"s, {name}" for name in names}


def test_runs_that_have_not_started_belong_to_the_data_set_that_they_typed(written_sweep, finished):
    runs = written_sweep((["data=folder", "data.path=cats"], finished(0.9)), (["data=folder", "data.path=cars"], {}))
    (runs[1].folder.config).unlink()
    names = SweepTable("s", runs).data_sets
    assert (names[0], names[1]) == ("FolderData cats", "folder cars")


def test_limited_runs_are_marked(written_sweep, finished, tmp_path, capsys):
    runs = written_sweep(
        (["optimizer.lr=0.1", "trainer.limit_test_batches=10"], finished(0.9)), (["optimizer.lr=0.01"], finished(0.8))
    )
    write_report(SweepTable("s", runs), tmp_path)
    print_report(SweepTable("s", runs))
    for text in (capsys.readouterr().out, (tmp_path / "sweep.md").read_text()):
        assert "note: 1 runs have limit_test_batches=10" in text
    print_report(SweepTable("s", runs[1:]))
    assert "note:" not in capsys.readouterr().out


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


def test_a_value_that_a_run_did_not_type_is_read_from_its_configuration(written_sweep, finished):
    runs = written_sweep((["seed=0"], finished(0.9)), (["seed=0", "model.dropout=0.5"], finished(0.8)))
    assert [row.setting for row in SweepTable("s", runs).rows] == [(0.0,), (0.5,)]


def test_intervals_of_accuracies_stay_within_zero_and_one(written_sweep, finished):
    runs = written_sweep((["seed=0"], finished(0.9)), (["seed=1"], finished(1.0)))
    low, high = SweepTable("s", runs).rows[0].summary.interval
    assert 0 <= low < high == 1


def test_the_csv_has_an_unrounded_row_for_each_run(table, values, tmp_path):
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


def test_a_bar_in_a_value_does_not_break_the_markdown_table(written_sweep, finished, tmp_path):
    runs = written_sweep((["+note=a|b"], finished(0.9)), (["+note=c"], finished(0.8)))
    write_report(SweepTable("s", runs), tmp_path)
    assert "| a\\|b |" in (tmp_path / "sweep.md").read_text()


def test_the_command_of_a_run_is_quoted_for_the_shell(written_sweep, finished):
    (run,) = written_sweep((["model.hidden=[64,32]", "seed=1"], finished(0.9)))
    assert shlex.split(command(run)) == ["python", "train.py", "model.hidden=[64,32]", "seed=1"]


def test_the_table_shows_after_which_epoch_halving_ended_runs(written_sweep, finished):
    left = finished(0.8) | {"halved_after_epoch": 2}
    runs = written_sweep((["optimizer.lr=0.1"], finished(0.9)), (["optimizer.lr=0.01"], left))
    columns, rows = settings_table(SweepTable("halved", runs))
    assert [row[columns.index("halved after epoch")] for row in rows] == ["", "2"]
    assert "halved after epoch" not in settings_table(SweepTable("whole", runs[:1]))[0]
