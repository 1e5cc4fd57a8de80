"""Which runs count as finished, and with which value: only runs in the manifest with a complete result."""

import json
import math
import shutil

import pytest

from digitlab.results.checkpoint import write_checkpoint
from digitlab.sweeps.manifest import create
from digitlab.sweeps.resume import finished_value


@pytest.fixture
def run(written_sweep, finished):
    (run,) = written_sweep((["seed=1"], finished(0.9375)))
    return run


def test_a_finished_run_has_its_monitored_value(run):
    assert finished_value(run.folder.path) == 0.9375


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"status": "finished"}', b'{"status": "stopped"}', b"\xff"]
)
def test_a_damaged_result_does_not_count(content, run):
    run.folder.result.write_bytes(content)
    assert finished_value(run.folder.path) is None


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_failed_and_stopped_runs_have_not_finished(status, run):
    run.folder.result.write_text(json.dumps(run.result | {"status": status}))
    assert finished_value(run.folder.path) is None


def test_a_folder_outside_the_manifest_has_not_finished(run):
    copy = run.folder.path.with_name("5_seed=9")
    shutil.copytree(run.folder.path, copy)
    assert finished_value(copy) is None
    assert finished_value(copy.with_name("none")) is None


def test_without_validation_the_training_metric_counts(written_sweep, finished):
    result = finished(0.5) | {"metrics": {"train/accuracy": 0.75}}
    (run,) = written_sweep((["data.val_size=0"], result))
    assert finished_value(run.folder.path) == 0.75


def test_with_test_last_the_value_is_that_of_the_tested_checkpoint(written_sweep, finished):
    (run,) = written_sweep((["test=last"], finished(0.5)))
    run.folder.best.parent.mkdir()
    write_checkpoint(run.folder.best, {"state_dict": {}, "metrics": {"val/accuracy": 0.96875}})
    assert finished_value(run.folder.path) == 0.5


def test_a_metric_that_was_never_finite_is_the_worst(run):
    run.folder.result.write_text(json.dumps(run.result | {"metrics": {"val/accuracy": None}}))
    assert finished_value(run.folder.path) == -math.inf


def test_a_halved_run_has_finished_only_for_a_command_that_halves(run):
    run.folder.result.write_text(json.dumps(run.result | {"halved_after_epoch": 1}))
    assert finished_value(run.folder.path) is None
    create(run.folder.path.parent, ["seed"], halving=True)
    assert finished_value(run.folder.path) == 0.9375
