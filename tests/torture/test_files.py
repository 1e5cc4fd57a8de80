"""Damaged and forged data files are read or refused by name, and reading them needs little memory.

Files are damaged by flipped bits, cuts and insertions, or have a header that announces data that is not there.
"""

import gzip
import hashlib
import io
import struct
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from digitlab.core.errors import DataError
from digitlab.data.cifar import extract, read_batch
from digitlab.data.idx import idx_shape, image_shape, read_idx
from digitlab.data.own_images import read_own_image

# Files have at most about 40 kB. Reading one may take this much more than the file and its unpacked content.
BOUND_BYTES = 8 << 20

_PIXELS = np.arange(3 * 3072, dtype=np.uint16).astype(np.uint8)
_IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, 5, 8, 8) + bytes(range(64)) * 5
# A pickle as Python 2 wrote it, with the three names that the reader knows.
_BATCH = (
    b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01K\x03M\0\x0c\x86"
    b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T"
    + struct.pack("<i", _PIXELS.size) + _PIXELS.tobytes() + b"tbU\x06labels](K\0K\x05K\x09eu."
)  # fmt: skip
_FILES = {"one": b"first", "two": bytes(3000)}
_DIGESTS = {name: hashlib.sha256(data).hexdigest() for name, data in _FILES.items()}


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in _FILES.items():
            member = tarfile.TarInfo(f"set/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.pad(np.full((9, 4), 255, dtype=np.uint8), 8)).save(buffer, "PNG")
    return buffer.getvalue()


TAR, PNG = _tar(), _png()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """``whole`` with one to four damages."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "write", "cut", "drop", "insert", "repeat"])):
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "write":
                data[place : place + 4] = draw(
                    st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\x80\0\0\0"])
                )
            case "cut":
                del data[place:]
            case "drop":
                del data[place : place + draw(st.integers(1, 64))]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "repeat":
                data[place:place] = data[: draw(st.integers(0, 512))]
    return bytes(data)


@st.composite
def forged_idx(draw: st.DrawFn) -> bytes:
    """A header with any type and sizes, such as 2³¹ images, followed by a few bytes."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 28, 2**16, 2**31 - 1, 2**31, 2**32 - 1]), max_size=5))
    kind = draw(st.sampled_from([8, 8, 8, 9, 13, 255]))
    dimensions = draw(st.sampled_from([len(sizes), 0, 1, 3, 4, 255]))
    header = struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, dimensions, *sizes)
    return header + draw(st.binary(max_size=64)) + bytes(draw(st.sampled_from([0, 0, 1 << 20])))


def zipped(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The contents unchanged, gzipped, or gzipped and then damaged."""
    packed = contents.map(lambda data: gzip.compress(data, 1))
    return st.one_of(contents, packed, packed.flatmap(damaged))


def read_idx_file(path) -> None:
    try:
        shape = idx_shape(path)
    except DataError:
        with pytest.raises(DataError, match=path.name):
            read_idx(path)
        return
    values = read_idx(path)
    assert (tuple(values.shape), values.dtype) == (shape, torch.uint8)
    assert image_shape(path, shape)[1:] == shape[-2:]


def read_batch_file(path) -> None:
    # With the right checksum, so that the file reaches the unpickler.
    pixels, labels = read_batch(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert pixels.shape == (len(labels), 3072)
    assert pixels.dtype == np.uint8


def unpack(path) -> None:
    folder = path.parent / "set"
    extract(path, folder, _DIGESTS)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == _FILES


def read_picture(path) -> None:
    image = read_own_image(path, image_shape=(1, 28, 28), margin_pixels=4)
    assert (image.shape, image.dtype) == ((1, 28, 28), torch.uint8)


def refused(read: Callable[..., None], path) -> str | None:
    try:
        read(path)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("read", "contents"),
    [
        (read_idx_file, zipped(damaged(_IDX))),
        (read_idx_file, zipped(forged_idx())),
        (read_batch_file, damaged(_BATCH)),
        (unpack, st.one_of(damaged(TAR).map(gzip.compress), damaged(gzip.compress(TAR)))),
        (read_picture, damaged(PNG)),
    ],
    ids=["idx", "idx header", "pickle", "archive", "picture"],
)
def test_any_file_is_read_or_refused_by_name_with_little_memory(
    read: Callable[..., None], contents, tmp_path, torture, one_line, tell
):
    path, seen = tmp_path / "the-file", Counter()

    @settings(
        max_examples=5_000 if torture else 100, deadline=None, database=None, derandomize=not torture,
        suppress_health_check=list(HealthCheck), print_blob=True,
    )  # fmt: skip
    @given(contents)
    @example(b"")
    def read_or_refused(data):
        path.write_bytes(data)
        tracemalloc.start()
        try:
            refusal = refused(read, path)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert refusal is None or (path.name in refusal and one_line(refusal)), refusal
        assert peak_bytes < BOUND_BYTES
        seen["read" if refusal is None else "refused"] += 1

    read_or_refused()
    tell(f"{seen['read']} read, {seen['refused']} refused")
