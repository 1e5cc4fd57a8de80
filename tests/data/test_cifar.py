"""The readers of CIFAR-10's pickles and archive read files as Python 2 wrote them, and never run a command in one."""

import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from digitlab.core.errors import DataError
from digitlab.data import cifar
from digitlab.data.cifar import extract, read_batch

PIXELS = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)


def python2_pickle(pixels: np.ndarray, labels: list[int], *, dtype: bytes = b"u1", key: bytes = b"labels") -> bytes:
    """A batch as Python 2 and the NumPy of its day pickled it; today's pickle writes other names."""
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    shape = b"M" + struct.pack("<H", len(pixels)) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01" + shape
    array += b"cnumpy\ndtype\n" + text(dtype) + b"K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    array += b"\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key) + numbers + b"u."


def read(tmp_path: Path, data: bytes) -> tuple[np.ndarray, list[int]]:
    (tmp_path / "batch").write_bytes(data)
    return read_batch(tmp_path / "batch", sha256=hashlib.sha256(data).hexdigest())


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_a_batch_is_read_as_written(tmp_path: Path) -> None:
    pixels, labels = read(tmp_path, python2_pickle(PIXELS, [0, 9]))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert (pixels.dtype, labels) == (np.uint8, [0, 9])


@pytest.mark.runs  # where the pickle is trusted, the command starts a process
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_in_a_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    pickle.loads(pickle.dumps(Payload(witness)))  # noqa: S301 - it does run where nothing stands before it
    assert witness.exists()
    witness.unlink()
    with pytest.raises(DataError, match=r"batch: refused.*it asks for \w+\.system"):
        read(tmp_path, pickle.dumps(Payload(witness), protocol=protocol))
    assert not witness.exists()


@pytest.mark.parametrize("name", ["builtins eval", "numpy load", "numpy.core.multiarray scalar", "digitlab.cli main"])
def test_a_pickle_with_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"it asks for {name.replace(' ', '.')}"):
        read(tmp_path, b"c" + name.replace(" ", "\n").encode() + b"\n.")


def test_a_pickle_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    data = python2_pickle(PIXELS, [0, 9])
    for length in [*range(200), *range(200, len(data), 97)]:
        with pytest.raises(DataError, match="batch"):
            read(tmp_path, data[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (python2_pickle(PIXELS, [0, 10]), "a label is none of 0 … 9"),
        (python2_pickle(PIXELS, [1]), "do not fit 1 labels"),
        (python2_pickle(PIXELS[:, :10], [1, 2]), "do not fit 2 labels"),
        (python2_pickle(PIXELS, [1, 2], dtype=b"i1"), "refused"),
        (python2_pickle(PIXELS, [1, 2], dtype=b"O"), "refused"),
        (python2_pickle(PIXELS, [1, 2], key=b"fine_labels"), "`data` and `labels`"),
        (pickle.dumps([1, 2]), "`data` and `labels`"),
    ],
    ids=["label", "count", "width", "signed", "objects", "CIFAR-100", "list"],
)
def test_a_pickle_that_is_not_a_batch_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"batch: .*{reason}"):
        read(tmp_path, data)


def test_another_checksum_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(python2_pickle(PIXELS, [0, 9]))
    with pytest.raises(DataError, match="damaged, or another file"):
        read_batch(tmp_path / "batch", sha256="0" * 64)
    with pytest.raises(DataError, match="cannot be read"):
        read_batch(tmp_path / "nowhere", sha256="0" * 64)


FILES = {"one": b"first", "two": b"second"}
DIGESTS = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}


def archive(tmp_path: Path, *members: tuple[str, bytes, bytes]) -> Path:
    """A gzipped archive of members (name, type, content)."""
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(data), "/etc/passwd"
            tar.addfile(member, io.BytesIO(data))
    return path


WHOLE = [(f"set/{name}", tarfile.REGTYPE, data) for name, data in FILES.items()]


def test_only_the_requested_files_are_extracted(tmp_path: Path) -> None:
    extra = [("set/readme", tarfile.REGTYPE, b"no"), ("other/one", tarfile.REGTYPE, b"no")]
    extract(archive(tmp_path, *extra, *WHOLE), tmp_path / "set", DIGESTS)
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == FILES
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["../escaped", "set/../../escaped", "/tmp/escaped-from-an-archive"])
def test_a_path_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="refused, it names the path"):
        extract(archive(tmp_path, (name, tarfile.REGTYPE, b"x"), *WHOLE), tmp_path / "in" / "set", DIGESTS)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive.tar.gz", "in", "set"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_not_a_regular_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(DataError, match="set/one is no regular file"):
        extract(archive(tmp_path, ("set/one", kind, b""), WHOLE[1]), tmp_path / "set", DIGESTS)
    assert list((tmp_path / "set").iterdir()) == []


def test_a_file_that_is_too_large_or_differs_is_not_kept(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match="damaged, or another file"):
        extract(archive(tmp_path, WHOLE[0]), tmp_path / "set", {"one": "0" * 64})
    monkeypatch.setattr(cifar, "_MAX_MEMBER_BYTES", 4)
    with pytest.raises(DataError, match="of at most 4 bytes"):
        extract(archive(tmp_path, WHOLE[0]), tmp_path / "set", DIGESTS)
    assert list((tmp_path / "set").iterdir()) == []


def test_an_incomplete_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="set/two missing"):
        extract(archive(tmp_path, WHOLE[0]), tmp_path / "set", DIGESTS)
    path = archive(tmp_path, *WHOLE)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(path, tmp_path / "set", DIGESTS)
