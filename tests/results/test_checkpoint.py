"""Checkpoint files: written whole, and read without running what is in them."""

import contextlib
import os
import pickle
import random
import threading

import pytest
import torch

from digitlab.results.checkpoint import read_checkpoint, write_checkpoint
from digitlab.schema import RunError


class Payload:
    """Runs ``touch`` when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_what_was_written_is_read(tmp_path):
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
def test_what_is_no_checkpoint_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"last\.ckpt: can't be read"):
        read_checkpoint(path)


def test_a_damaged_checkpoint_is_refused_or_read_and_nothing_else(tmp_path):
    path, draw = tmp_path / "last.ckpt", random.Random(0)
    write_checkpoint(path, {"state_dict": {"w": torch.zeros(10)}})
    whole = path.read_bytes()
    torn = [whole[: draw.randrange(len(whole))] for _ in range(50)]
    for content in torn:
        path.write_bytes(content)
        with pytest.raises(RunError, match="can't be read"):
            read_checkpoint(path)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(flipped)
        with contextlib.suppress(RunError):
            read_checkpoint(path)


@pytest.mark.parametrize("value", [{"weights": {}}, [1, 2]])
def test_a_file_without_a_state_dict_is_no_checkpoint(tmp_path, value):
    torch.save(value, tmp_path / "other.ckpt")
    with pytest.raises(RunError, match="holds no state_dict"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match=r"last\.ckpt: there is no such checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_reader_never_meets_half_a_checkpoint(tmp_path):
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
