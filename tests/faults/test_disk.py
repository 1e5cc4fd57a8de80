"""A full or read-only disk: one line, an exit code, and valid files stay valid."""

import tempfile
import threading
import time

import pytest

from digitlab.core.errors import RunError
from digitlab.results.checkpoint import read_checkpoint
from digitlab.training.resuming import resume


def content(run):
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_a_run_on_a_full_disk_keeps_its_checkpoint_and_resumes_with_free_space(
    ready, left, disk, full, tmp_path, one_line, capfd
):
    disk("size=4m")
    alone, run = ready(tmp_path / "alone"), ready(tmp_path / "disk" / "run", "trainer.max_epochs=2")
    resume(str(alone.path), [])
    resume(str(run.path), [])
    filling, before = full(tmp_path / "disk"), read_checkpoint(run.last)["rows"]
    capfd.readouterr()
    with pytest.raises(RunError) as caught:
        resume(str(run.path), ["trainer.max_epochs=4"])
    assert one_line(str(caught.value)), caught.value
    assert str(run.path) in str(caught.value)
    assert "No space left" in str(caught.value)
    assert capfd.readouterr().err == ""
    assert read_checkpoint(run.last)["rows"] == before
    filling.unlink()
    resume(str(run.path), ["trainer.max_epochs=4"])
    assert left(run) == left(alone)


def test_a_disk_that_fills_up_during_training_gives_one_line(ready, disk, full, tmp_path, one_line, capfd):
    disk("size=4m")
    run = ready(tmp_path / "disk" / "run", "trainer.max_epochs=1000")

    def fill_once_saved():
        while not run.previous.exists():
            time.sleep(0.01)
        full(tmp_path / "disk")

    filling = threading.Thread(target=fill_once_saved)
    filling.start()
    with pytest.raises(RunError, match="No space left") as caught:
        resume(str(run.path), [])
    filling.join()
    assert one_line(str(caught.value)), caught.value
    assert capfd.readouterr().err == ""
    assert read_checkpoint(run.last)["rows"]


@pytest.mark.parametrize("kind", ["full", "read-only", "missing"])
def test_a_run_needs_no_temporary_folder(kind, ready, left, disk, full, tmp_path, monkeypatch):
    place = tmp_path / "disk"
    if kind == "full":
        disk("size=64k")
        full(place)
    elif kind == "read-only":
        disk("ro")
    else:
        place = place / "nowhere"
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    run = ready(tmp_path / "run", "trainer.max_epochs=1")
    resume(str(run.path), [])
    assert left(run)["status"] == "finished"


def test_a_run_in_a_read_only_folder_is_refused_and_unchanged(ready, disk, tmp_path, one_line):
    disk("size=4m")
    run = ready(tmp_path / "disk" / "run", "trainer.max_epochs=1")
    resume(str(run.path), [])
    before = content(run)
    disk("remount,ro")
    with pytest.raises(RunError, match="Read-only file system") as caught:
        resume(str(run.path), ["trainer.max_epochs=2"])
    assert one_line(str(caught.value))
    assert content(run) == before


def test_train_py_on_a_full_disk_prints_one_line(disk, full, train_py, tmp_path, one_line):
    disk("size=64k")
    full(tmp_path / "disk")
    ended = train_py("debug=fast", f"hydra.run.dir={tmp_path / 'disk' / 'run'}")
    assert ended.returncode in (1, 2)
    assert one_line(ended.stderr), ended.stderr
