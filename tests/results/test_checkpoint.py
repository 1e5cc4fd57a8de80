"""Checkpoint files are written atomically, and reading them never runs code."""

import os
import pickle
import threading
import zipfile

import pytest
import torch

from digitlab.core.errors import RunError
from digitlab.results.checkpoint import newest_usable_checkpoint, read_checkpoint, write_checkpoint
from digitlab.results.folder import RunFolder


class Payload:
    """Runs ``touch`` when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_reading_returns_what_was_written(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = {"state_dict": {"w": torch.arange(3.0)}, "epoch": 2, "rows": [{"epoch": 1, "lr": 0.1}], "none": None}
    write_checkpoint(path, checkpoint)
    read = read_checkpoint(path)
    assert torch.equal(read.pop("state_dict")["w"], checkpoint.pop("state_dict")["w"])
    assert read == checkpoint


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["torch", "pickle"]
)
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, save):
    path, proof = tmp_path / "evil.ckpt", tmp_path / "proof"
    save({"state_dict": {}, "hyper_parameters": Payload(proof)}, path)
    with pytest.raises(RunError, match=r"evil\.ckpt"):
        read_checkpoint(path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 not a zip file"])
def test_other_files_are_refused_with_their_path(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"last\.ckpt: can't be read"):
        read_checkpoint(path)


@pytest.fixture
def written(tmp_path):
    """The path and the content of a checkpoint."""
    path, checkpoint = tmp_path / "last.ckpt", {"state_dict": {"w": torch.arange(100.0)}, "epoch": 3}
    write_checkpoint(path, checkpoint)
    return path, checkpoint


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_truncated_checkpoint_is_refused_with_its_path(written, sixteenth):
    path, _ = written
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * sixteenth // 16])
    with pytest.raises(RunError, match=r"last\.ckpt: can't be read"):
        read_checkpoint(path)


def test_a_zeroed_checkpoint_is_refused_with_its_path(written):
    path, _ = written
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(RunError, match=r"last\.ckpt: can't be read"):
        read_checkpoint(path)


@pytest.mark.extra
def test_a_flipped_bit_is_noticed_or_changes_nothing(written):
    path, checkpoint = written
    whole, refused = path.read_bytes(), 0
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            read = read_checkpoint(path)
        except RunError:
            refused += 1
        else:
            assert torch.equal(read["state_dict"]["w"], checkpoint["state_dict"]["w"]), position
            assert read["epoch"] == checkpoint["epoch"]
    # Only bits of the padding and of duplicated entries of the archive go unnoticed.
    assert refused > 0.25 * len(whole)


def test_a_compressed_checkpoint_is_refused_before_it_is_decompressed(written):
    path, _ = written
    with zipfile.ZipFile(path) as stored:
        entries = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as compressed:
        for name, content in entries.items():
            compressed.writestr(name, content)
    with pytest.raises(RunError, match="compressed"):
        read_checkpoint(path)


HERE = {"model": {"hidden": [16]}}


def described(epoch, model=HERE):
    return {"state_dict": {}, "epoch": epoch, "hyper_parameters": model, "events": {}}


@pytest.fixture
def two_saves(run_folder):
    """A run with two checkpoints: the last one of epoch 2, the previous one of epoch 1."""
    run = RunFolder(run_folder)
    for epoch in (1, 2):
        write_checkpoint(run.last, described(epoch), keep=run.previous)
    return run


def test_a_run_resumes_from_its_last_checkpoint(two_saves):
    assert newest_usable_checkpoint(two_saves, hyper_parameters=HERE)["epoch"] == 2


@pytest.mark.parametrize("damage", ["truncated", "another model", "missing"])
def test_a_damaged_last_checkpoint_is_reported_and_the_previous_one_is_used(two_saves, caplog, damage, one_line):
    if damage == "truncated":
        os.truncate(two_saves.last, 100)
    elif damage == "another model":
        write_checkpoint(two_saves.last, described(7, {"model": {"hidden": [32]}}))
    else:
        two_saves.last.unlink()
    assert newest_usable_checkpoint(two_saves, hyper_parameters=HERE)["epoch"] == 1
    (record,) = caplog.records
    assert str(two_saves.last) in record.message
    assert one_line(record.message)
    caplog.clear()
    # Both files are good copies now: the next save may replace either.
    assert newest_usable_checkpoint(two_saves, hyper_parameters=HERE)["epoch"] == 1
    assert not caplog.records


def test_a_command_that_only_looks_repairs_nothing(two_saves, caplog):
    two_saves.last.write_bytes(b"")
    assert newest_usable_checkpoint(two_saves, hyper_parameters=HERE, repair=False)["epoch"] == 1
    assert (two_saves.last.read_bytes(), caplog.records) == (b"", [])


def test_without_a_usable_checkpoint_the_error_names_the_last_one(two_saves):
    for path in (two_saves.last, two_saves.previous):
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"last\.ckpt: can't be read"):
        newest_usable_checkpoint(two_saves, hyper_parameters=HERE)


def test_a_checkpoint_of_an_older_version_is_refused_and_without_it_the_run_starts_again(two_saves, one_line):
    for path in (two_saves.last, two_saves.previous):
        write_checkpoint(path, {"state_dict": {}, "hyper_parameters": HERE})
    with pytest.raises(RunError, match="an older version wrote it") as caught:
        newest_usable_checkpoint(two_saves, hyper_parameters=HERE)
    assert one_line(str(caught.value))
    folder = two_saves.last.parent
    assert f"{two_saves.last}: " in str(caught.value)
    assert f"to start the run again, move {folder} away" in str(caught.value)
    folder.rename(folder.with_name("old"))
    assert newest_usable_checkpoint(two_saves, hyper_parameters=HERE) is None


def test_a_checkpoint_of_another_model_says_what_differs(two_saves):
    with pytest.raises(RunError, match=r"belongs to another run: its model is \{hidden:\[16\]\}, not \{hidden:\[8\]\}"):
        newest_usable_checkpoint(two_saves, hyper_parameters={"model": {"hidden": [8]}})


def test_a_run_without_a_checkpoint_has_none(run_folder):
    assert newest_usable_checkpoint(RunFolder(run_folder), hyper_parameters=HERE) is None


def test_the_previous_checkpoint_is_kept_without_copying_it(two_saves):
    before = two_saves.last.stat().st_ino
    write_checkpoint(two_saves.last, described(3), keep=two_saves.previous)
    assert two_saves.previous.stat().st_ino == before
    assert [path.name for path in sorted(two_saves.last.parent.iterdir())] == ["last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("value", [{"weights": {}}, [1, 2]])
def test_a_file_without_a_state_dict_is_no_checkpoint(tmp_path, value):
    torch.save(value, tmp_path / "other.ckpt")
    with pytest.raises(RunError, match="holds no state_dict"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_the_error_names_a_missing_checkpoint(tmp_path):
    with pytest.raises(RunError, match=r"last\.ckpt: there is no such checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_reader_never_sees_a_half_written_checkpoint(tmp_path):
    path, written = tmp_path / "last.ckpt", 30
    write_checkpoint(path, {"state_dict": {"w": torch.full((50_000,), 0.0)}})

    def write():
        for number in range(1, written):
            write_checkpoint(path, {"state_dict": {"w": torch.full((50_000,), float(number))}})

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        weights = read_checkpoint(path)["state_dict"]["w"]
        assert len(weights.unique()) == 1
    thread.join()
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
