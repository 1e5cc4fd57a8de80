"""Runs that fail: one line, an exit code, no traceback, and no folder if training has not started."""

import gzip
import json
import os
import shutil
import signal
import time

import pytest
import torch

from digitlab.config.compose import ROOT
from digitlab.core.errors import DataError
from digitlab.training import train
from fixtures.children import Ended


@pytest.fixture
def rejected_by_train_py(train_py, one_line, tmp_path):
    """``rejected_by_train_py(...)`` runs train.py and checks that it prints one line and leaves no folder."""

    def run(*arguments, sweep=False):
        kind, folder = ("sweep", tmp_path / "out" / "sweep") if sweep else ("run", tmp_path / "out" / "run")
        ended = train_py(*arguments, f"hydra.{kind}.dir={folder}")
        assert one_line(ended.stderr), ended.stderr
        assert not (tmp_path / "out").exists()
        assert ended.stdout == ""
        return ended

    return run


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("model=foo", "model=foo: must be one of cnn, fast_cnn, lenet, linear, mlp, mlp_dropout, torchvision"),
        ("optimizer.lrr=1", "optimizer.lrr=1: no such key (did you mean `lr`?)"),
        ("model.hidden=[64", "model.hidden=[64: can't be read"),
        ("model.dropout=1.5", "model.dropout=1.5: must be a number in [0, 1)"),
        ("optimizer.lr", "optimizer.lr: must be written KEY=VALUE"),
        ("data.val_size=${nowhere}", "data.val_size=${nowhere}: Interpolation key 'nowhere' not found"),
    ],
)
def test_an_invalid_setting_ends_train_py_with_one_line_and_code_2(argument, line, rejected_by_train_py):
    ended = rejected_by_train_py(argument)
    assert ended.stderr.startswith(line)
    assert ended.returncode == 2


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["model=mlp,foo"], "model=foo"),
        (["model=mlp,linear", "model.dropout=0,0.2"], "model.dropout=0"),
        (["trainer=cpu,ddp"], "trainer.strategy=ddp"),
        (["optimizer.lr=[0.1,0.2"], "optimizer.lr=[0.1,0.2"),
        (["optimizer.lr=fast", "seed=0,1"], "optimizer.lr=fast"),
        (["model.hidden=[64,x]", "seed=0,1"], "model.hidden=[64,x]"),
        (["model._target_=digitlab.models.Nothing", "seed=0,1"], "model._target_=digitlab.models.Nothing"),
        (["model._target_=os.system", "model.dropout=0,0.1"], "model._target_=os.system"),
        (["+callbacks.mine._target_=digitlab.models.MLP", "seed=0,1"], "callbacks.mine._target_=digitlab.models.MLP"),
        (["+callbacks.mine._target_=lightning.Nothing", "seed=0,1"], "callbacks.mine._target_=lightning.Nothing"),
    ],
)
def test_a_mistake_in_all_jobs_of_a_sweep_is_reported_before_the_first_one(arguments, key, rejected_by_train_py):
    ended = rejected_by_train_py("-m", *arguments, sweep=True)
    assert ended.stderr.startswith(f"{key}: ")
    assert ended.returncode == 2


IDX = """
source: {{_target_: digitlab.data.sources.IdxSource, name: mine, class_names: [{names}],
  train_images: "{folder}/images.gz", train_labels: "{folder}/{labels}",
  test_images: "{folder}/images.gz", test_labels: "{folder}/labels.gz"}}
"""


def idx_files(folder, *, names="abcdefghij", labels="labels.gz"):
    raw = ROOT / "src" / "digitlab" / "data" / "mnist"
    shutil.copy(raw / "t10k-images-idx3-ubyte.gz", folder / "images.gz")
    shutil.copy(raw / "t10k-labels-idx1-ubyte.gz", folder / "labels.gz")
    shutil.copy(raw / "train-labels-idx1-ubyte.gz", folder / "others.gz")
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "conf" / "data" / "mine.yaml").write_text(IDX.format(folder=folder, names=",".join(names), labels=labels))
    return f"hydra.searchpath=[file://{folder}/conf]", "data=mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": "nowhere.gz"}, "nowhere.gz: no such file"),
        ({"labels": "others.gz"}, "others.gz: holds 60000 labels for the 10000 images of"),
        ({"names": "abc"}, "label 9, but there are 3 classes"),
    ],
)
def test_invalid_data_files_end_the_run_and_leave_no_folder(change, words, shrunk, one_line, tmp_path):
    config = shrunk(*idx_files(tmp_path, **change))
    with pytest.raises(DataError, match=words) as caught:
        train(config, folder=tmp_path / "out" / "run")
    assert one_line(str(caught.value))
    assert not (tmp_path / "out").exists()


def test_a_truncated_data_file_ends_train_py_with_code_1(rejected_by_train_py, tmp_path):
    overrides = idx_files(tmp_path)
    content = gzip.decompress((tmp_path / "images.gz").read_bytes())
    (tmp_path / "images.gz").write_bytes(gzip.compress(content[:-1], 1))
    ended = rejected_by_train_py(*overrides)
    assert "images.gz: truncated" in ended.stderr
    assert ended.returncode == 1


def open_when_read(fifo, process):
    """Wait until ``process`` reads from ``fifo``, and return a file descriptor that writes to it."""
    while process.running():
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError(process.wait())


@pytest.mark.sample(2)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_reading_data_leaves_no_folder(train_py_started, tmp_path, number, code):
    overrides = idx_files(tmp_path, labels="slow")
    os.mkfifo(tmp_path / "slow")
    process = train_py_started(*overrides, f"hydra.run.dir={tmp_path / 'out' / 'run'}")
    writing = open_when_read(tmp_path / "slow", process)
    assert (tmp_path / "out" / "run").is_dir()
    process.send_signal(number)
    assert process.wait() == Ended(code, "", "")
    os.close(writing)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_the_message_names_the_step(train_py, one_line, tmp_path):
    folder = tmp_path / "run"
    # The first step at this rate gives finite weights, the second does not. An epoch is one step here.
    arguments = ["trainer.limit_train_batches=1", "optimizer=sgd", "optimizer.lr=1e30", "trainer.progress_bar=false"]
    ended = train_py(*arguments, f"hydra.run.dir={folder}")
    assert ended.returncode == 1
    assert one_line(ended.stderr), ended.stderr
    assert "epoch 2, step 2 (learning rate 1e+30)" in ended.stderr
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["epochs"] == 1
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.extra
def test_an_invalid_value_in_a_sweep_fails_only_its_own_job(train_py, tmp_path):
    folder = tmp_path / "sweep"
    ended = train_py(
        "-m", "debug=fast", "model.dropout=1.5,0", "trainer.progress_bar=false", f"hydra.sweep.dir={folder}"
    )
    results = {path.parent.name[0]: json.loads(path.read_text()) for path in folder.glob("*/result.json")}
    assert {number: result["status"] for number, result in results.items()} == {"0": "failed", "1": "finished"}
    assert "model.dropout=1.5: must be a number in [0, 1)" in results["0"]["error"]
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    messages = [line for line in ended.stderr.splitlines() if "must be a number in [0, 1)" in line]
    assert len(messages) == 2, "once as it happens, once at the end"
    assert f"{folder}: 1 of 2 jobs failed" in ended.stderr


@pytest.mark.extra
def test_a_folder_with_a_run_is_not_overwritten(train_py, one_line, tmp_path):
    folder = tmp_path / "run"
    settings = ("debug=fast", f"hydra.run.dir={folder}")
    assert train_py(*settings).returncode == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = train_py(*settings)
    assert again.returncode == 2
    assert one_line(again.stderr)
    assert again.stderr.startswith(f"hydra.run.dir={folder}: holds a run")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "contains other runs, such as sweep/0: choose a new folder inside it"),
        ("file", "is a file: choose a new"),
        ("sweep/0/new", "sweep/0, where no command finds it: choose another folder"),
    ],
)
def test_a_folder_that_is_not_for_a_run_is_refused(train_py, one_line, tmp_path, name, reason):
    (tmp_path / "sweep" / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").write_text("model: {}")
    (tmp_path / "file").touch()
    ended = train_py("debug=fast", f"hydra.run.dir={tmp_path / name}")
    assert (ended.returncode, one_line(ended.stderr)) == (2, True), ended.stderr
    assert reason in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "sweep"]
