"""The Python API: trainings and sweeps in this process, and that nothing global is left behind."""

import gc
import io
import logging
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from matplotlib import pyplot
from PIL import Image

import digitlab
from digitlab.api.frames import to_frame
from digitlab.api.inputs import as_pixels
from digitlab.results.checkpoint import read_checkpoint
from fixtures.facts import MNIST_FACTS

SMALL = (
    "model=linear", "trainer=cpu", "data.train_size=300", "data.val_size=100", "trainer.max_epochs=2",
    "trainer.limit_test_batches=2", "trainer.progress_bar=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> digitlab.Run:
    return digitlab.train(*SMALL, folder=tmp_path_factory.mktemp("api") / "größe = 1 (a)")


def test_a_run_tells_its_result(run):
    assert run.status == "finished"
    assert run.metrics["test/accuracy"] == run.result["metrics"]["test/accuracy"]
    assert len(run.history) == 2
    assert run.config.data.train_size == 300
    assert repr(run).startswith("<Run größe = 1 (a): finished, test/accuracy")
    assert "finished" in run._repr_html_()


def global_state():
    """What a notebook or a program shares with the trainings that it starts, by name."""
    root = logging.getLogger()
    return {
        "folder": os.getcwd(), "environment": dict(os.environ), "sys.path": list(sys.path),
        "streams": (sys.stdin, sys.stdout, sys.stderr), "hooks": (sys.excepthook, threading.excepthook),
        "logging": (list(root.handlers), root.level, logging.raiseExceptions),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": list(warnings.filters), "garbage collection": gc.isenabled(), "threads": threading.enumerate(),
        "random": random.getstate(), "numpy": repr(np.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "torch's threads": torch.get_num_threads(), "gradients": torch.is_grad_enabled(),
        "precision": (torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "matplotlib": (matplotlib.get_backend(), dict(matplotlib.rcParams)), "figures": pyplot.get_fignums(),
        "hydra": (GlobalHydra.instance().is_initialized(), HydraConfig.instance().cfg),
        "hydra's version": VersionBase.instance().getbase(),
    }  # fmt: skip


@pytest.mark.extra
def test_nothing_global_is_left_behind(run, tmp_path):
    before = global_state()
    again = digitlab.train(*SMALL, folder=tmp_path / "run")
    again.evaluate()
    again.figure("history_epochs")
    again.report()
    digitlab.sweep(*SMALL, "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")
    after = global_state()
    assert [name for name, value in before.items() if after[name] != value] == []


def test_a_training_prints_to_an_ascii_stream_and_leaves_it_as_it_was(tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    digitlab.train(*SMALL[:-1], folder=tmp_path / "läufe")
    assert stream.errors == "strict"
    stream.seek(0)
    assert "epoch 2/2 - " in stream.read()


def test_two_trainings_in_one_process_have_the_same_bits(run, tmp_path):
    again = digitlab.train(*SMALL, folder=tmp_path / "again")
    states = [read_checkpoint(each.path / "checkpoints" / "last.ckpt")["state_dict"] for each in (run, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizr.lr=1", "optimizr.lr=1: no such key"),
        ("model=nope", "model=nope"),
        ("model.init=x", "model.init=x: must be"),
        ("resume=x", "digitlab.resume"),
        ("++resume=x", "digitlab.resume"),
        ("-m", "digitlab.sweep"),
    ],
)
def test_mistakes_raise_and_print_nothing(override, message, tmp_path, capsys):
    with pytest.raises(digitlab.ConfigError) as raised:
        digitlab.train("model=mlp", override, folder=tmp_path / "run")
    assert message in str(raised.value)
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "run").exists()


def test_predictions_of_paths_pictures_arrays_and_tensors_agree(run, tmp_path):
    images = run.data().test_set.images[:3]
    expected = run.predict(images)
    assert expected.shape == (3, 10)
    torch.testing.assert_close(expected.sum(1), torch.ones(3))
    for same in (images.numpy(), images[:, 0], list(images), images.float() / 255):
        torch.testing.assert_close(run.predict(same), expected)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    torch.testing.assert_close(run.predict(paths), run.predict([Image.open(path) for path in paths]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32), np.uint8), r"must have shape \(1, 28, 28\)"),
        (np.full((1, 28, 28), 255.0), r"floats must lie in \[0, 1\]"),
        (np.zeros((1, 28, 28), np.int64), "must be uint8"),
    ],
)
def test_images_of_another_kind_are_refused(images, message):
    with pytest.raises(digitlab.ConfigError, match=message):
        as_pixels(images, facts=MNIST_FACTS, deskewed=False)


@pytest.mark.extra
def test_figures_and_reports(run, tmp_path):
    figure = run.figure("confusion_matrix")
    assert len(figure.axes) >= 2
    assert pickle.dumps(figure)
    picture, facts = figure._repr_png_()
    assert picture.startswith(b"\x89PNG")
    assert facts == {"alt": "confusion matrix of linear on mnist"}
    with pytest.raises(digitlab.ConfigError, match="did you mean `confusion_matrix`"):
        run.figure("confusion_matrx")
    assert run.report(tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!")


def test_a_sweep_has_runs_a_table_effects_and_a_best_run(tmp_path):
    grid = ("seed=0,1", "optimizer=sgd", "optimizer.lr=0.1,1e-5", f"hydra.sweep.dir={tmp_path}/sweep")
    sweep = digitlab.sweep(*SMALL, *grid)
    assert len(sweep.runs) == len(sweep.table) == 4
    assert not sweep.failures
    assert sweep.best is not None
    assert sweep.best.config.optimizer.lr == 0.1
    assert list(sweep.effects) == ["optimizer.lr"]
    assert repr(digitlab.open(sweep.path)) == repr(sweep) == "<Sweep sweep: 4 of 4 runs finished>"
    finished = [each.path.stat().st_mtime_ns for each in sweep.runs]
    assert [each.path.stat().st_mtime_ns for each in digitlab.sweep(*SMALL, *grid).runs] == finished
    compared = sweep.compare()
    assert len(compared.table) == len(compared.sentences) == 1
    assert str(compared).startswith("No difference shown between optimizer.lr=0.1 and optimizer.lr=1e-05: +")
    assert "2 pairs" in compared._repr_html_()
    assert len(compared.figure().axes) == 2
    fast, slow = (f"optimizer.lr={rate}" for rate in (0.1, 1e-05))
    alone = sweep.compare("optimizer.lr", where=["seed=1"]).sentences[0]
    assert alone == f"{fast} is {alone.partition(' is ')[2].partition(' ')[0]} points better than {slow} in " + (
        "val/accuracy: one run each, which says nothing about other seeds; repeat both with at least 5 seeds."
    )
    with pytest.raises(digitlab.ConfigError, match="one folder is no comparison"):
        digitlab.compare_runs(sweep)


def test_two_runs_are_compared_image_by_image(run, tmp_path):
    untrained = digitlab.train(*SMALL, "optimizer.lr=1e-9", folder=tmp_path / "untrained")
    compared = digitlab.compare_runs(run, untrained.path)
    assert compared.sentences[0].startswith(f"{run.path.name} is ")
    assert compared.notes == ["no test of single images: the runs were tested on 256 of 10000 images"]


def test_a_failed_run_of_a_sweep_warns_and_is_listed(tmp_path):
    with pytest.warns(RuntimeWarning, match="1 of 2 jobs failed"):
        sweep = digitlab.sweep(
            *SMALL, "optimizer=sgd", "optimizer.lr=0.1,-1",
            f"hydra.sweep.dir={tmp_path}/sweep",
        )  # fmt: skip
    assert len(sweep.failures) == 1


def test_a_training_in_a_thread_stops_on_request_and_is_resumed(tmp_path, stopped_in_thread):
    folder = tmp_path / "run"

    def meanwhile():
        with pytest.raises(digitlab.RunError, match="this process trains already"):
            digitlab.train(*SMALL, folder=tmp_path / "other")

    raised = stopped_in_thread(*SMALL, folder=folder, by_run=True, meanwhile=meanwhile)
    assert len(raised) == 1
    with pytest.raises(digitlab.RunError, match="this process does not train this run"):
        digitlab.open(folder).stop()
    assert f"to continue: digitlab.resume({str(folder)!r})" in str(raised[0])
    epochs = len(digitlab.open(folder).history)
    resumed = digitlab.resume(folder, max_epochs=epochs + 2)
    assert resumed.status == "finished"
    assert len(resumed.history) == epochs + 2


@pytest.mark.extra
def test_a_sweep_runs_in_a_thread(tmp_path):
    sweeps = []
    grid = ("seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")
    thread = threading.Thread(target=lambda: sweeps.append(digitlab.sweep(*SMALL, *grid)))
    thread.start()
    thread.join()
    assert [run.status for sweep in sweeps for run in sweep.runs] == ["finished"] * 2


def test_runs_are_a_table(run):
    rows = digitlab.runs(run.path.parent)
    assert len(rows) == 1


def test_frames_have_all_columns():
    rows = [{"a": 1}, {"b": 2}]
    frame = to_frame(rows)
    complete = (
        frame if isinstance(frame, list) else [dict(zip(frame.columns, row, strict=True)) for row in frame.values]
    )
    assert [list(row) for row in complete] == [["a", "b"], ["a", "b"]]


def test_tables_are_lists_of_dicts_without_pandas_and_polars(monkeypatch):
    monkeypatch.setattr("digitlab.api.frames.find_spec", lambda name: None)
    assert to_frame([{"a": 1}, {"b": 2}]) == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_opening_another_folder_is_refused(tmp_path: Path):
    with pytest.raises(digitlab.ConfigError, match="is no run folder"):
        digitlab.open(tmp_path)
