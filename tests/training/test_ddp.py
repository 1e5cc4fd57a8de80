"""Two processes on the CPU train like one: equal weights in both, one run folder, one report."""

import json
import os
from pathlib import Path

import pytest
import torch

import __main__
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from fixtures.children import Child

# 63 images give the processes 32 and 31 each. Double precision makes errors larger than rounding visible.
LEARNING = (
    "data.batch_size=63",
    "data.train_size=1000",
    "data.val_size=200",
    "model.hidden=[16]",
    "optimizer=sgd",
    "optimizer.momentum=0.9",
    "trainer.gradient_clip_norm=0.5",
    "trainer.precision=64",
    "scheduler=cosine",
    "ema.decay=0.9",
    "loss.class_weights={3:5}",
    "early_stopping=null",
)
RANDOM = ("model.dropout=0.2", "model.batch_norm=true", "augment=[shift]")


@pytest.fixture
def ddp(train_py_here, tmp_path):
    """``ddp(...)`` trains in two processes in ``tmp_path/run``; each writes a digest of its weights to ``digests/``.

    The first process is forked; Lightning starts the second one, which has to import torch.
    """

    def command(*overrides):
        def act():
            # Lightning must repeat the command of train.py, not the one that started the tests.
            __main__.__spec__ = None
            train_py_here(*overrides)

        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {"DIGITLAB_ALLOW": "run_callbacks", "PYTHONPATH": paths}
        return Child(act, cwd=tmp_path, environment=environment, more_bytes=64 << 30).wait()

    return command


@pytest.fixture
def started(tmp_path):
    digest = f"+callbacks.digest={{_target_: run_callbacks.Digest, folder: {tmp_path / 'digests'}}}"
    run_dir = f"hydra.run.dir={tmp_path / 'run'}"
    return ("trainer=ddp", "trainer.accelerator=cpu", "trainer.progress_bar=false", digest, run_dir)


def digests(tmp_path):
    return [(tmp_path / "digests" / str(rank)).read_text() for rank in (0, 1)]


def stopped_and_resumed(ddp, folder, *overrides):
    # 1,000 images are 16 mini-batches: both processes stop at the end of the chunk, after 8 of them.
    stop = "+callbacks.stop={_target_: run_callbacks.SignalAt, step: 5, number: 2}"
    first = ddp(*overrides, stop)
    assert first.code == 130
    assert first.stderr.startswith("stopped by SIGINT at epoch 1, step 8 of 16: saved")
    assert first.stderr.count("\n") == 1
    assert read_checkpoint(folder.last)["global_step"] == 8

    second = ddp(f"resume={folder.path}")
    assert (second.code, second.stderr) == (0, "")
    assert second.stdout.count("checkpoint best, epoch") == second.stdout.splitlines().count(str(folder.path)) == 1


def without_its_stop(left):
    """The files of a run without the entries that name the callback that stopped it."""
    result = {key: value for key, value in left["result.json"].items() if key not in ("command", "overrides")}
    return {key: value for key, value in left.items() if key != ".:config/text_summary"} | {"result.json": result}


@pytest.mark.long
@pytest.mark.extra
def test_two_processes_that_are_stopped_end_with_the_same_bits(ddp, started, remains, tmp_path):
    overrides = (*started, *LEARNING, *RANDOM, "test=none", "trainer.max_epochs=2", "trainer.chunk_length=8")
    folder = RunFolder(tmp_path / "run")
    stopped_and_resumed(ddp, folder, *overrides)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digests", "run"]
    stopped = without_its_stop(remains(folder.path))
    folder.path.rename(tmp_path / "stopped")
    assert ddp(*overrides).code == 0
    # Both computed the statistics of the batch normalisation from whole mini-batches.
    assert len(set(digests(tmp_path))) == 1
    assert stopped == without_its_stop(remains(folder.path))


def test_two_processes_train_like_one(ddp, started, run, tmp_path):
    overrides = (*LEARNING, "test=last", "trainer.limit_test_batches=2", "trainer.max_epochs=2")
    assert ddp(*started, *overrides).code == 0
    folder = RunFolder(tmp_path / "run")
    one, other = digests(tmp_path)
    assert one == other

    solo = run(*overrides, name="solo")
    shared = read_checkpoint(folder.last)
    for name, expected in solo.checkpoint()["state_dict"].items():
        torch.testing.assert_close(shared["state_dict"][name], expected, rtol=1e-9, atol=1e-12)
    assert folder.read_result()["metrics"] == pytest.approx(solo.result["metrics"])
    for row, expected in zip(shared["rows"], solo.checkpoint()["rows"], strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected)


@pytest.mark.long
@pytest.mark.extra
def test_batch_statistics_are_the_same_in_both_processes(ddp, started, tmp_path):
    small = (
        "data.batch_size=31",
        "trainer.limit_train_batches=5",
        "trainer.limit_val_batches=1",
        "trainer.max_epochs=1",
    )
    done = ddp(*started, *small, "model=cnn", "model.width=4", "ema.decay=0.9", "augment=[shift]", "test=none")
    assert (done.code, done.stderr) == (0, "")
    assert len(set(digests(tmp_path))) == 1


@pytest.mark.long
@pytest.mark.extra
def test_a_loss_that_is_not_finite_ends_both_processes_with_one_line(ddp, started, tmp_path):
    done = ddp(*started, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=1", "data.train_size=1000")
    assert done.code == 1
    assert done.stderr.startswith("the loss is")
    assert done.stderr.count("\n") == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"
