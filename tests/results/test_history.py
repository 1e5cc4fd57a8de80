"""``metrics.csv`` as rows per epoch, against files written by hand."""

import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlab.core.errors import RunError
from digitlab.results.folder import RunFolder
from digitlab.results.history import EpochRow, GrowingHistory, read_history


def test_rows_are_typed_and_empty_cells_are_left_out(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.write_text("epoch,step,lr,val/loss,val/accuracy\n1,10,0.1,0.5,0.75\n2,20,0.05,nan,\n")
    first, second = read_history(run)
    assert first == EpochRow(1, 10, {"lr": 0.1, "val/loss": 0.5, "val/accuracy": 0.75})
    assert (second.epoch, second.step, set(second.values)) == (2, 20, {"lr", "val/loss"})
    assert math.isnan(second.values["val/loss"])


def test_a_run_without_an_epoch_has_no_rows(tmp_path):
    assert read_history(RunFolder(tmp_path)) == []


@pytest.mark.parametrize("line", ["x,10,0.5", "2,ten,0.5", "2,10,0.5.1", "2,10,0.5,1,2"])
def test_a_damaged_line_is_named(line, tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.write_text(f"epoch,step,val/loss\n1,5,0.5\n{line}\n")
    with pytest.raises(RunError, match="line 3: can't be read"):
        read_history(run)


VALUES = st.one_of(st.none(), st.floats(-1e3, 1e3), st.just(math.inf))
TABLES = st.lists(st.tuples(VALUES, VALUES), max_size=6)


def table(rows):
    """The content of ``metrics.csv`` for pairs of values, as the writer writes it."""
    lines = [
        f"{number},{10 * number},{a or ''},{'' if b is None else b}" for number, (a, b) in enumerate(rows, start=1)
    ]
    return "".join(f"{line}\n" for line in ["epoch,step,val/loss,lr", *lines]).encode()


@given(TABLES, st.lists(st.floats(0, 1), max_size=4))
def test_after_any_part_of_the_file_the_growing_history_equals_a_full_read_of_its_complete_lines(rows, cuts):
    content = table(rows)
    with tempfile.TemporaryDirectory() as growing, tempfile.TemporaryDirectory() as complete:
        history, reference = GrowingHistory(RunFolder(Path(growing))), RunFolder(Path(complete))
        for size in sorted(round(cut * len(content)) for cut in [*cuts, 1]):
            (Path(growing) / "metrics.csv").write_bytes(content[:size])
            reference.metrics.write_bytes(content[: content[:size].rfind(b"\n") + 1])
            history.update()
            assert history.rows == read_history(reference)
        assert len(history.rows) == len(rows)
        assert history.generation == 0


@given(TABLES, TABLES)
def test_a_history_that_was_replaced_is_read_anew(before, after):
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        history = GrowingHistory(run)
        for rows in (before, after):
            run.metrics.write_bytes(table(rows))
            history.update()
            assert history.rows == read_history(run)
        assert history.generation == (table(before) != table(after)[: len(table(before))])
        run.metrics.unlink()
        history.update()
        assert history.rows == []


def test_only_new_lines_are_parsed(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    history, parsed = GrowingHistory(run), []
    monkeypatch.setattr("digitlab.results.history._row", lambda cells, columns: parsed.append(cells[0]))
    for epochs in (2, 3, 3):
        run.metrics.write_bytes(table([(0.5, 0.1)] * epochs))
        history.update()
    assert parsed == ["1", "2", "3"]


def test_a_damaged_line_is_named_each_time_until_it_is_repaired(tmp_path):
    run = RunFolder(tmp_path)
    history = GrowingHistory(run)
    run.metrics.write_bytes(table([(0.5, 0.1)]) + b"2,20,x,0.1\n")
    for _ in range(2):
        with pytest.raises(RunError, match="line 3: can't be read"):
            history.update()
    run.metrics.write_bytes(table([(0.5, 0.1)] * 2))
    history.update()
    assert [row.epoch for row in history.rows] == [1, 2]
