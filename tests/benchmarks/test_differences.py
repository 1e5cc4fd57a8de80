"""What compare_revisions.py reports as a difference: bits of tensors and digits of numbers, not times or names."""

import json

import pytest
import torch

from differences import compare_checkpoints, compare_folders, compare_results, compare_tables, tensor_difference
from digitlab.config.compose import ROOT
from revision_cases import CASES

RESULT = {
    "status": "finished",
    "metrics": {"val/accuracy": 0.9, "val/loss": None},
    "best_epoch": 2,
    "epochs": 2,
    "train_seconds": 1.5,
    "parameters": 7850,
    "split_fingerprint": "425584fa",
    "git_commit": "abc",
}
METRICS = "epoch,val/loss,train_seconds\n1,0.5,0.11\n2,nan,0.12\n"


def checkpoint(weights, *, name="hidden.weight", moment=0.5):
    state = {0: {"exp_avg": torch.tensor([moment, 1.0]), "step": torch.tensor(3.0)}}
    return {
        "state_dict": {name: weights, "output.weight": torch.zeros(5)},
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "epoch_seconds": 0.3,
    }


def one_bit_off(tensor):
    """The next larger value in place of the first."""
    changed = tensor.clone()
    changed[0] = torch.nextafter(changed[0], torch.tensor(torch.inf, dtype=tensor.dtype))
    return changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (6,), (2, 3)])
def test_a_tensor_equals_its_copy_with_any_strides(dtype, shape):
    tensor = torch.ones(shape).to(dtype)
    strided = tensor.t().contiguous().t() if tensor.dim() == 2 else tensor.clone()
    assert tensor_difference(tensor, strided) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_last_bit_counts_and_the_distance_is_reported(dtype):
    tensor = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    text = tensor_difference(tensor, one_bit_off(tensor))
    assert text == f"1 of 3 values differ, by at most {torch.finfo(dtype).eps:.3g}"


def test_nan_equals_only_the_same_nan():
    tensor = torch.tensor([torch.nan, 1.0])
    assert tensor_difference(tensor, tensor.clone()) is None
    # The last bit of the payload; and a number where nan was.
    other_bits = (tensor.view(torch.int32) + torch.tensor([1, 0], dtype=torch.int32)).view(torch.float32)
    assert other_bits[0].isnan()
    assert tensor_difference(tensor, other_bits) == "1 of 2 values differ, none by a finite amount, 1 in nan or inf"
    number = torch.tensor([0.0, 1.5])
    assert tensor_difference(tensor, number) == "2 of 2 values differ, by at most 0.5, 1 in nan or inf"


def test_zero_differs_from_minus_zero():
    assert tensor_difference(torch.zeros(1), -torch.zeros(1)) == "1 of 1 values differ, by at most 0"


def test_dtype_and_shape_count():
    assert "float64" in (tensor_difference(torch.zeros(2), torch.zeros(2, dtype=torch.float64)) or "")
    assert "[2, 1]" in (tensor_difference(torch.zeros(2), torch.zeros(2, 1)) or "")


def test_equal_checkpoints_have_neither_differences_nor_notes():
    found = compare_checkpoints(checkpoint(torch.ones(3)), checkpoint(torch.ones(3)) | {"epoch_seconds": 9.0})
    assert (found.differences, found.notes) == ([], [])


def test_the_optimizer_state_counts():
    found = compare_checkpoints(checkpoint(torch.ones(3)), checkpoint(torch.ones(3), moment=0.75))
    assert found.differences == ["optimizer: 0/state/0/exp_avg: 1 of 2 values differ, by at most 0.25"]
    other_rate = checkpoint(torch.ones(3))
    other_rate["optimizer_states"][0]["param_groups"][0]["lr"] = 0.2
    found = compare_checkpoints(checkpoint(torch.ones(3)), other_rate)
    assert found.differences == ["optimizer: 0/param_groups/0/lr: 0.1 became 0.2 (by 0.1)"]


def test_a_missing_optimizer_state_is_a_difference():
    new = checkpoint(torch.ones(3))
    del new["optimizer_states"]
    assert compare_checkpoints(checkpoint(torch.ones(3)), new).differences


def test_renamed_tensors_are_compared_by_order_and_shape():
    weights = torch.tensor([1.0, 2.0, 3.0])
    found = compare_checkpoints(checkpoint(weights), checkpoint(weights, name="layers.0.weight"))
    assert found.differences == []
    expected = "state_dict: names differ (hidden.weight became layers.0.weight): compared by order and shape"
    assert found.notes == [expected]
    found = compare_checkpoints(checkpoint(weights), checkpoint(one_bit_off(weights), name="layers.0.weight"))
    assert found.differences == ["state_dict: hidden.weight: 1 of 3 values differ, by at most 1.19e-07"]


def test_renamed_tensors_of_other_shapes_are_a_difference():
    found = compare_checkpoints(checkpoint(torch.ones(3)), checkpoint(torch.ones(4), name="layers.0.weight"))
    assert len(found.differences) == 1
    assert "hidden.weight" in found.differences[0]


def test_results_are_compared_without_times_and_commit():
    assert compare_results(RESULT, RESULT | {"train_seconds": 9.0, "git_commit": "def"}).differences == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("status", "failed"), ("best_epoch", 1), ("epochs", 3), ("parameters", 1), ("split_fingerprint", "0")],
)
def test_each_field_of_a_result_counts(name, value):
    assert len(compare_results(RESULT, RESULT | {name: value}).differences) == 1


def test_metrics_count_to_the_last_digit_and_must_not_be_missing():
    more = RESULT | {"metrics": {"val/accuracy": 0.9000000000000001, "val/loss": None, "val/new": 1.0}}
    found = compare_results(RESULT, more)
    assert found.differences == ["metrics/val/accuracy: 0.9 became 0.9000000000000001 (by 1.11e-16)"]
    assert found.notes == ["metrics/val/new: is new"]
    assert compare_results(RESULT, RESULT | {"metrics": {"val/loss": None}}).differences == [
        "metrics/val/accuracy: is missing in the new revision"
    ]


def test_a_metric_that_was_not_measured_differs_from_one_that_was():
    measured = RESULT | {"metrics": {"val/accuracy": 0.9, "val/loss": 0.5}}
    assert len(compare_results(measured, RESULT).differences) == 1
    assert len(compare_results(RESULT, measured).differences) == 1


def test_tables_are_compared_without_times():
    assert compare_tables(METRICS, METRICS.replace("0.11", "7.5"), renamed={}).differences == []
    found = compare_tables(METRICS, METRICS.replace("0.5", "0.25"), renamed={})
    assert found.differences == ["row 1, val/loss: 0.5 became 0.25 (by 0.25)"]
    assert len(compare_tables(METRICS, "epoch,val/loss\n1,0.5\n", renamed={}).differences) == 1


def test_a_renamed_column_of_a_sweep_is_the_same_column():
    old, new = "number,test_views\n0,flip\n", "number,tta\n0,flip\n"
    assert compare_tables(old, new, renamed={"test_views": "tta"}).differences == []
    assert compare_tables(old, new, renamed={}).differences


def write_run(folder, *, weights, metrics=METRICS):
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint(weights), folder / "checkpoints" / "last.ckpt")
    (folder / "result.json").write_text(json.dumps(RESULT))
    (folder / "metrics.csv").write_text(metrics)


def test_jobs_of_a_sweep_are_compared_by_number(tmp_path):
    write_run(tmp_path / "old" / "3_seed=0,test_views=flip", weights=torch.ones(3))
    write_run(tmp_path / "new" / "3_seed=0,tta=flip", weights=torch.ones(3))
    assert compare_folders(tmp_path / "old", tmp_path / "new", renamed={}).differences == []
    write_run(tmp_path / "other" / "3_seed=0,tta=flip", weights=one_bit_off(torch.ones(3)))
    found = compare_folders(tmp_path / "old", tmp_path / "other", renamed={})
    assert found.differences == [
        "3/checkpoints/last.ckpt: state_dict: hidden.weight: 1 of 3 values differ, by at most 1.19e-07"
    ]


def test_a_missing_file_is_a_difference_and_a_new_file_a_note(tmp_path):
    for side in ("old", "new"):
        write_run(tmp_path / side / "run", weights=torch.ones(3))
    (tmp_path / "new" / "run" / "metrics.csv").unlink()
    (tmp_path / "new" / "run" / "more.csv").write_text("a\n1\n")
    found = compare_folders(tmp_path / "old", tmp_path / "new", renamed={})
    assert found.differences == ["run/metrics.csv: only the old revision wrote it"]
    assert found.notes == ["run/more.csv: only the new revision wrote it"]


def test_two_folders_without_results_are_not_equal(tmp_path):
    assert compare_folders(tmp_path, tmp_path, renamed={}).differences == ["the old revision wrote no results"]


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a population"])
def test_every_update_rule_occurs_in_the_cases_of_two_revisions(together):
    found = set()
    for case in CASES:
        given = dict(override.split("=", 1) for override in case.overrides)
        if together == (case.sweep and given.get("hydra/launcher") != "basic"):
            found |= set(given.get("optimizer", "adam").split(","))
            found |= given.keys() & {"optimizer.momentum", "optimizer.nesterov"}
    rules = {path.stem for path in (ROOT / "conf/optimizer").glob("*.yaml")}
    assert found == rules | {"optimizer.momentum", "optimizer.nesterov"}
