"""What a real run leaves: the files of the contract, and the exit code of a process that is stopped."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from digitlab.config.compose import ROOT
from digitlab.results.folder import RunFolder


def test_the_files_are_those_of_the_contract(run):
    finished = run("test=best")
    names = {str(path.relative_to(finished.folder.path)) for path in finished.folder.path.rglob("*") if path.is_file()}
    events = {name for name in names if "tfevents" in name}
    assert names - events == {
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "metrics.csv", "result.json",
        "model.txt", "confusion_matrix.csv", "test_predictions.npz",
    }  # fmt: skip
    assert {name.rpartition("/")[0] for name in events} == {"", "train", "val"}


def test_images_per_second_leaves_validation_out(run):
    finished = run()
    with finished.folder.metrics.open(encoding="utf-8") as file:
        header, *lines = (line.strip().split(",") for line in file)
    for line in lines:
        row = dict(zip(header, line, strict=True))
        assert float(row["images_per_second"]) * float(row["train_seconds"]) == pytest.approx(1000)


def test_a_process_that_is_stopped_saves_its_run_and_tells_by_its_exit_code(tmp_path):
    folder = RunFolder(tmp_path / "run")
    forever = (
        "trainer.max_epochs=1000000",
        "early_stopping=null",
        "data.train_size=1000",
        "trainer.progress_bar=false",
    )
    command = [sys.executable, str(ROOT / "train.py"), "trainer=cpu", *forever, f"hydra.run.dir={folder.path}"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not folder.last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143
    assert re.fullmatch(r"stopped by SIGTERM at epoch \d+, step \d of 8: saved; to go on: .* resume=\S+\n", errors)
    assert folder.read_result()["status"] == "stopped"
    assert folder.last.exists()


def test_the_summary_is_of_the_network_whether_its_weights_are_averaged_or_not(run):
    plain, averaged = (run(*settings).folder.summary.read_text("utf-8") for settings in ((), ("ema.decay=0.9",)))
    assert plain == averaged
