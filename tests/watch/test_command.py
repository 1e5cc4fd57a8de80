"""``digitlab watch`` as a command: its address, a real run, and how it ends."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from digitlab import cli
from digitlab.api.commands import sweep
from digitlab.sweeps.manifest import Manifest
from digitlab.sweeps.planned import planned_jobs
from digitlab.watch.laboratory import Laboratory
from fixtures.children import Child

SMALL = (
    "trainer=cpu", "trainer.progress_bar=false", "model=linear", "data.train_size=64", "data.val_size=40",
    "trainer.max_epochs=2", "trainer.limit_test_batches=1",
)  # fmt: skip


def start(monkeypatch, root):
    """The command in a child, for the runs under ``root``, and the address that it has printed."""
    printed = root / "printed"
    monkeypatch.setattr("sys.argv", ["digitlab", "watch", "--root", str(root), "--port", "0"])
    with printed.open("wb") as file:
        child = Child(cli.main, stdout=file.fileno())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.running():
        if len(lines := printed.read_text().splitlines()) == 2:
            return child, lines[1]
        time.sleep(0.02)
    pytest.fail(f"no address: {child.wait()}")


def test_the_command_answers_until_ctrl_c_and_then_ends_well_within_a_second(tmp_path, monkeypatch):
    child, address = start(monkeypatch, tmp_path)
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{address}state", timeout=30) as answer:
        assert json.load(answer)["runs"] == []
    # Trainings go first: a higher number is a lower priority.
    assert os.getpriority(os.PRIO_PROCESS, child.pid) > os.getpriority(os.PRIO_PROCESS, 0)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    ended = child.wait(hung_seconds=30)
    assert time.monotonic() - begun < 1
    assert (ended.code, ended.stderr) == (0, "")


def test_a_busy_port_and_a_missing_folder_are_one_line(tmp_path, monkeypatch, digitlab, one_line):
    child, address = start(monkeypatch, tmp_path)
    port = address.split(":")[2].partition("/")[0]
    code, out, err = digitlab("watch", "--root", tmp_path, "--port", port)
    child.send_signal(signal.SIGINT)
    child.wait(hung_seconds=30)
    assert (code, out) == (2, "")
    assert one_line(err)
    assert f"--port={port}: can't be used" in err
    code, out, err = digitlab("watch", "--root", tmp_path / "missing")
    assert (code, out, one_line(err)) == (2, "", True)
    assert "there is no such folder" in err


def test_the_help_names_the_options(digitlab):
    code, out, _ = digitlab("watch", "--help")
    assert code == 0
    for word in ("--root", "--port", "--open", "--no-browser", "Ctrl-C"):
        assert word in out


@pytest.mark.extra
def test_a_real_sweep_is_planned_followed_and_finished(tmp_path, look):
    folder = tmp_path / "sweeps" / "s"
    watched = Laboratory(tmp_path)
    sweep("hydra/launcher=basic", "seed=0,1", "optimizer.lr=0.1,0.2", *SMALL, f"hydra.sweep.dir={folder}")
    planned = planned_jobs(folder)
    assert planned == {tuple(entry.overrides) for entry in Manifest.read(folder).runs}
    assert len(planned) == 4
    told = look(watched, sweep="sweeps/s")
    assert [run["status"] for run in told["runs"]] == ["finished"] * 4
    assert not any(run["population"] for run in told["runs"])
    assert all(0 <= run["value"] <= 1 and run["epochs"] == 2 for run in told["runs"])
    assert {len(curve) for curve in told["curves"]["curves"].values()} == {2}
    (state,) = told["sweeps"]
    assert (state["id"], state["running"], state["waiting"]) == ("sweeps/s", False, 0)
    run = look(watched, run=told["runs"][0]["id"], generation=-1)["run"]
    assert [row["epoch"] for row in run["rows"]] == [1, 2]
    assert {"train/loss", "val/loss", "lr", "images_per_second"} <= run["rows"][0].keys()


def test_what_a_command_does_not_say_is_not_planned(tmp_path):
    assert planned_jobs(tmp_path) is None
    path = Path(tmp_path / "multirun.yaml")
    path.write_text("hydra:\n  sweeper:\n    params: null\n  overrides:\n    task:\n    - model=glob(*)\n")
    assert planned_jobs(tmp_path) is None
    path.write_text("hydra:\n  sweeper:\n    params:\n      seed: 0,1\n  overrides:\n    task:\n    - model=mlp,cnn\n")
    assert planned_jobs(tmp_path) == {(f"seed={seed}", f"model={model}") for seed in (0, 1) for model in ("mlp", "cnn")}
