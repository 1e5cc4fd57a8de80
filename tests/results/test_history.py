"""``metrics.csv`` as rows per epoch, against files written by hand."""

import math

import pytest

from digitlab.core.errors import RunError
from digitlab.results.folder import RunFolder
from digitlab.results.history import EpochRow, read_history


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
