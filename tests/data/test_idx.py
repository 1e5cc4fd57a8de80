"""The reader of IDX files reads correct files exactly, and refuses all others with an error that names the file."""

import gzip
import hashlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from digitlab.core.errors import DataError
from digitlab.data.idx import idx_shape, read_idx

SHAPE = (3, 4, 5)


def header(*shape: int, kind: int = 0x08) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape)


def content(shape: tuple[int, ...] = SHAPE) -> bytes:
    return header(*shape) + bytes(i % 251 for i in range(int(np.prod(shape))))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "images-idx"


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), zipped=st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_and_shape_are_read_as_written(file: Path, shape: tuple[int, ...], zipped: bool) -> None:
    data = content(shape)
    file.write_bytes(gzip.compress(data) if zipped else data)
    values = read_idx(file)
    assert (values.dtype, tuple(values.shape), idx_shape(file)) == (torch.uint8, shape, shape)
    assert values.numpy().tobytes() == data[4 + 4 * len(shape) :]


@pytest.mark.parametrize("data", [content(), gzip.compress(content())], ids=["plain", "gzip"])
def test_a_file_truncated_anywhere_is_refused(file: Path, data: bytes) -> None:
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(DataError, match=file.name):
            read_idx(file)


@pytest.mark.parametrize("data", [content() + b"\0", gzip.compress(content() + b"\0")], ids=["plain", "gzip"])
def test_an_additional_byte_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(DataError, match="longer than the 60 values"):
        read_idx(file)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n", "not an IDX file"),
        (b"", "begins with nothing"),
        (header(kind=0x0D) + bytes(4), "not an IDX file"),
        (header(1, kind=0x0D) + bytes(4), "type 0x0d"),
        (header(0, 28, 28), "empty"),
        (gzip.compress(content())[:-8] + bytes(8), "cannot be read"),
    ],
    ids=["PNG", "empty", "no dimension", "float", "no images", "wrong CRC"],
)
def test_a_file_in_another_format_is_refused_with_the_reason(file: Path, data: bytes, reason: str) -> None:
    file.write_bytes(data)
    with pytest.raises(DataError, match=f"{file.name}: .*{reason}"):
        read_idx(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


@pytest.mark.parametrize("zip_", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_header_that_promises_too_much_allocates_no_memory(file: Path, zip_) -> None:
    file.write_bytes(zip_(header(2**32 - 1, 2**32 - 1) + bytes(1000)))
    with pytest.raises(DataError, match="truncated"):
        read_idx(file)


def test_decompression_stops_after_the_promised_values(file: Path) -> None:
    file.write_bytes(gzip.compress(header(2, 2) + bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="longer than the 4 values"):
            read_idx(file)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_the_digest_does_not_depend_on_the_compression(file: Path) -> None:
    data = content()
    for stored in (data, gzip.compress(data, 1), gzip.compress(data, 9)):
        file.write_bytes(stored)
        assert read_idx(file, sha256=hashlib.sha256(data).hexdigest()).shape == SHAPE
    file.write_bytes(data[:-1] + b"\xff")
    with pytest.raises(DataError, match="damaged, or another file"):
        read_idx(file, sha256=hashlib.sha256(data).hexdigest())
