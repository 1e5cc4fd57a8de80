"""Tables say what they are given."""

from digitlab.results.table import print_table


def test_words_in_brackets_are_no_markup(capsys):
    words = ["[output]", "[hidden.0,output]", "[/b]", "photo[red].png", ":smile:"]
    print_table(["key"], [[word] for word in words], title="runs/[old]")
    flush_stdout = capsys.readouterr().out
    assert [word for word in [*words, "runs/[old]"] if word not in flush_stdout] == []
