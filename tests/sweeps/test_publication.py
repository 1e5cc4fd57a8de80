"""Tables for papers: the numbers of the sweep, the best setting in bold, and no character that LaTeX would read."""

import csv
import io
import json
import statistics

import pytest

from digitlab.sweeps.publication import publication_table
from digitlab.sweeps.table import SweepTable

ACCURACIES = {0.1: (0.90, 0.92), 0.01: (0.95, 0.96), 0.001: (0.5, 0.4)}


@pytest.fixture
def table(written_sweep, finished):
    runs = written_sweep(*(
        ([f"optimizer.lr={lr}", f"seed={seed}"], finished(value, test=value - 0.01))
        for lr, values in ACCURACIES.items() for seed, value in enumerate(values)
    ))  # fmt: skip
    return SweepTable("my_sweep", runs)


def test_latex_has_a_row_per_setting_with_the_best_in_bold(table):
    text = publication_table(table, "latex")
    rows = [line.strip() for line in text.splitlines() if line.strip().endswith(r"\\")]
    assert rows[0] == r"optimizer.lr & val/accuracy in \% & test/accuracy in \% & n \\"
    assert rows[1] == (r"0.01 & {\boldmath\textbf{95.50 $\pm$ 0.71}} & {\boldmath\textbf{94.50 $\pm$ 0.71}} & 2 \\")
    assert rows[2] == r"0.1 & 91.00 $\pm$ 1.41 & 90.00 $\pm$ 1.41 & 2 \\"
    assert len(rows) == 4
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrr}", r"my\_sweep", "booktabs"):
        assert rule in text
    assert text.count("{") == text.count("}")


def test_special_characters_of_values_are_escaped(written_sweep, finished):
    names = ["adam_w", "50%", "a&b", "c#1", "{x}", "~", "^", "a|b", "$1"]
    runs = written_sweep(([], finished(0.5)))
    table = SweepTable("s", runs)
    # Values reach the table as text, whatever typed them.
    table.keys = ["name"]
    table.values = {0: {"name": " ".join(names)}}
    text = publication_table(table, "latex")
    for expected in (
        r"adam\_w", r"50\%", r"a\&b", r"c\#1", r"\{x\}", r"\textasciitilde{}", r"\textasciicircum{}", r"a\textbar{}b",
        r"\$1",
    ):  # fmt: skip
        assert expected in text


def test_csv_has_the_numbers_themselves(table):
    rows = list(csv.DictReader(io.StringIO(publication_table(table, "csv"))))
    assert [row["optimizer.lr"] for row in rows] == ["0.01", "0.1", "0.001"]
    for row in rows:
        values = ACCURACIES[float(row["optimizer.lr"])]
        assert float(row["val/accuracy mean"]) == pytest.approx(statistics.fmean(values))
        assert float(row["val/accuracy sd"]) == pytest.approx(statistics.stdev(values))
        assert float(row["test/accuracy mean"]) == pytest.approx(statistics.fmean(values) - 0.01)
        assert row["n"] == "2"


def test_markdown_has_a_table_with_the_best_in_bold(table):
    lines = publication_table(table, "markdown").splitlines()
    assert lines[2:5] == [
        "| optimizer.lr | val/accuracy in % | test/accuracy in % | n |", "| --- | ---: | ---: | ---: |",
        "| 0.01 | **95.50 ± 0.71** | **94.50 ± 0.71** | 2 |",
    ]  # fmt: skip


def test_failed_and_single_runs_have_no_deviation(written_sweep, finished):
    runs = written_sweep(
        (["optimizer.lr=0.1"], finished(0.9)),
        (["optimizer.lr=0.2"], {"status": "failed", "error": "x", "metrics": {}}),
    )
    text = publication_table(SweepTable("s", runs), "markdown")
    assert "| 0.1 | **90.00** | **50.00** | 1 |" in text
    assert "| 0.2 | – | – | 0 |" in text
    assert "0.2 & -- & -- & 0" in publication_table(SweepTable("s", runs), "latex")


def test_two_data_sets_share_a_csv_table_and_have_a_latex_table_each(written_sweep, finished):
    runs = written_sweep((["data=mnist"], finished(0.9)), (["data=fashion_mnist"], finished(0.8)))
    table = SweepTable("s", runs)
    rows = list(csv.DictReader(io.StringIO(publication_table(table, "csv"))))
    assert [row["data set"] for row in rows] == [part.name for part in table.by_data_set()]
    assert len({row["data set"] for row in rows}) == 2
    assert publication_table(table, "latex").count(r"\begin{table}") == 2


def test_the_command_prints_the_table_alone(table, digitlab, tmp_path):
    folder = tmp_path / "sweep"
    before = sorted(folder.iterdir())
    for name in ("latex", "markdown", "csv"):
        code, out, err = digitlab("sweep", folder, "--table", name)
        assert (code, err) == (0, "")
        assert out == publication_table(SweepTable("sweep", table.runs), name)
    assert sorted(folder.iterdir()) == before
    assert digitlab("sweep", folder, "--table", "excel")[0] == 2
    code, out, err = digitlab("sweep", folder, "--table", "csv", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert json.loads(digitlab("sweep", folder, "--json")[1])["name"] == "sweep"
