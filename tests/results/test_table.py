"""Tables print what they are given; the list of runs compares only what is comparable."""

import json

import pytest

from digitlab.api import html
from digitlab.results.folder import RunFolder
from digitlab.results.table import markdown_table, print_result, print_runs, print_table, run_row, sort_rows


def test_words_in_brackets_are_printed_as_they_are(capsys):
    words = ["[output]", "[hidden.0,output]", "[/b]", "photo[red].png", ":smile:"]
    print_table(["key"], [[word] for word in words], title="runs/[old]")
    printed = capsys.readouterr().out
    assert [word for word in [*words, "runs/[old]"] if word not in printed] == []


def test_words_are_aligned_left_and_numbers_right_also_behind_numbers(capsys):
    columns, rows = (
        ["file", "confidence", "runner-up", "confidence"],
        [["a.png", "0.9", "one", "0.1"], ["b", "1", "b", "0"]],
    )
    print_table(columns, rows, words=("file", "runner-up"))
    line = capsys.readouterr().out.splitlines()[-2]
    assert [cell[1:-1] for cell in line.strip("│").split("│")] == ["b    ", "         1", "b        ", "         0"]
    assert markdown_table(columns, rows, words=("file", "runner-up")).splitlines()[1] == "| --- | ---: | --- | ---: |"
    assert html.table(columns, rows, words=("file", "runner-up")).count("text-align:left") == 6


def row(folder, **values):
    return {"status": "finished", "data": "mnist", "folder": folder, "limits": None} | values


def folders(rows):
    return [each["folder"] for each in rows]


def test_limited_runs_follow_complete_ones(capsys):
    rows = [
        row("limited", **{"test/accuracy": 1.0, "limits": "limit_test_batches=10"}),
        row("worse", **{"test/accuracy": 0.8}),
        row("better", **{"test/accuracy": 0.9}),
        row("untested"),
    ]
    ranked = sort_rows(rows, "test/accuracy")
    assert folders(ranked) == ["better", "worse", "limited", "untested"]
    print_runs(ranked, metric="test/accuracy")
    assert [line.split().count("yes") for line in capsys.readouterr().out.splitlines()[1:]] == [0, 0, 1, 0]
    print_runs(rows[1:])
    assert "limited" not in capsys.readouterr().out


def test_data_sets_are_ranked_separately_by_metrics_but_not_by_seconds():
    rows = [
        row("m1", **{"val/accuracy": 0.98, "train_seconds": 3.0}),
        row("c1", **{"data": "cifar10", "val/accuracy": 0.5, "train_seconds": 2.0}),
        row("m2", **{"val/accuracy": 0.99, "train_seconds": 1.0}),
        row("c2", **{"data": "cifar10", "val/accuracy": 0.6, "train_seconds": 4.0}),
    ]
    assert folders(sort_rows(rows, "val/accuracy")) == ["c2", "c1", "m2", "m1"]
    assert folders(sort_rows(rows, "train_seconds")) == ["m2", "c1", "m1", "c2"]


def test_pictures_of_two_folders_are_two_data_sets(tmp_path):
    rows = []
    for number, (choice, line, accuracy) in enumerate(
        [("folder", "path: 'pets [a]'", 0.5), ("folder", "path: cars", 0.9), ("folder", "path: 'pets [a]'", 0.7),
         ("emnist", "split: letters", 0.6), ("emnist", "split: digits", 0.99), ("folder", "path: null", 0.1),
         ("own", "source:\n    train_images: ${data.root}/own/0a1b2c3d4e5f/train-images", 0.3)]
    ):  # fmt: skip
        run = RunFolder(tmp_path / str(number))
        run.config.parent.mkdir(parents=True)
        (run.config.parent / "hydra.yaml").write_text(f"hydra:\n  runtime:\n    choices:\n      data: {choice}\n")
        run.config.write_text(f"data:\n  _target_: X\n  {line}\nmodel:\n  path: other\n  split: none\n")
        run.result.write_text(json.dumps({"status": "finished", "metrics": {"val/accuracy": accuracy}}))
        rows.append(run_row(run))
    names = ["folder pets [a]", "folder cars", "folder pets [a]", "emnist letters", "emnist digits", "folder"]
    names.append("own 0a1b2c3d")
    assert [each["data"] for each in rows] == names
    ranked = [(each["data"], each["val/accuracy"]) for each in sort_rows(rows, "val/accuracy")]
    assert ranked[-3:-1] == [("folder pets [a]", 0.7), ("folder pets [a]", 0.5)]


def test_the_limits_are_those_of_the_configuration(tmp_path):
    run = RunFolder(tmp_path)
    run.config.parent.mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").write_text("")
    run.result.write_text(json.dumps({"status": "finished", "metrics": {}}))
    limits = "trainer:\n  limit_train_batches: null\n  limit_test_batches: 10\n  overfit_batches: 2\n"
    run.config.write_text(limits)
    assert run_row(run)["limits"] == "limit_test_batches=10 overfit_batches=2"
    run.config.write_text("trainer:\n  limit_train_batches: null\n  overfit_batches: null\n")
    assert run_row(run)["limits"] is None


@pytest.mark.parametrize(
    ("tested", "title"),
    [
        ({"checkpoint": "last", "epoch": 10}, "checkpoint last, epoch 10 of 10"),
        ({"checkpoint": "best", "epoch": 7}, "checkpoint best, epoch 7 of 10"),
    ],
)
def test_the_final_table_names_the_checkpoint_of_its_numbers(tested, title, tmp_path, capsys):
    # The best epoch is another one than that of the last checkpoint.
    result = {"metrics": {"val/accuracy": 0.5, "test/accuracy": 0.25}, "tested": tested, "best_epoch": 7, "epochs": 10}
    print_result(tmp_path, result)
    assert title in capsys.readouterr().out


@pytest.mark.parametrize(("loss", "text"), [(1234.56789, "1234.5679"), (2.77e22, "2.77e+22"), (-2.0, "-2.0000")])
def test_a_loss_with_many_digits_is_shortened(loss, text, tmp_path, capsys):
    print_result(tmp_path, {"metrics": {"val/loss": loss}, "epochs": 1, "tested": None})
    assert f"│ {text} │" in capsys.readouterr().out
