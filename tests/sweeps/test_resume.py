"""Which runs count as finished, and with which value: those that say so themselves and that the manifest knows."""

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


def test_a_finished_run_has_the_value_it_had(run):
    assert finished_value(run.folder.path) == 0.9375


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"status": "finished"}', b'{"status": "stopped"}', b"\xff"]
)
def test_a_result_that_was_not_written_to_its_end_is_none(content, run):
    run.folder.result.write_bytes(content)
    assert finished_value(run.folder.path) is None


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_failed_and_stopped_runs_are_to_be_done(status, run):
    run.folder.result.write_text(json.dumps(run.result | {"status": status}))
    assert finished_value(run.folder.path) is None


def test_a_folder_that_the_manifest_does_not_know_is_to_be_done(run):
    copy = run.folder.path.with_name("5_seed=9")
    shutil.copytree(run.folder.path, copy)
    assert finished_value(copy) is None
    assert finished_value(copy.with_name("none")) is None


def test_without_validation_the_run_goes_by_its_training_images(written_sweep, finished):
    result = finished(0.5) | {"metrics": {"train/accuracy": 0.75}}
    (run,) = written_sweep((["data.val_size=0"], result))
    assert finished_value(run.folder.path) == 0.75


def test_where_the_last_checkpoint_was_tested_the_best_one_is_asked(written_sweep, finished):
    (run,) = written_sweep((["test=last"], finished(0.5)))
    run.folder.best.parent.mkdir()
    write_checkpoint(run.folder.best, {"state_dict": {}, "metrics": {"val/accuracy": 0.96875}})
    assert finished_value(run.folder.path) == 0.96875


def test_a_metric_that_was_never_a_number_is_the_worst(run):
    run.folder.result.write_text(json.dumps(run.result | {"metrics": {"val/accuracy": None}}))
    assert finished_value(run.folder.path) == -math.inf


def test_a_run_that_halving_ended_has_finished_only_where_the_command_halves(run):
    run.folder.result.write_text(json.dumps(run.result | {"halved_after_epoch": 1}))
    assert finished_value(run.folder.path) is None
    create(run.folder.path.parent, ["seed"], halving=True)
    assert finished_value(run.folder.path) == 0.9375
