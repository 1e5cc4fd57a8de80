"""Tables say what they are given."""

import pytest

from digitlab.results.table import print_result, print_table


def test_words_in_brackets_are_no_markup(capsys):
    words = ["[output]", "[hidden.0,output]", "[/b]", "photo[red].png", ":smile:"]
    print_table(["key"], [[word] for word in words], title="runs/[old]")
    flush_stdout = capsys.readouterr().out
    assert [word for word in [*words, "runs/[old]"] if word not in flush_stdout] == []


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
