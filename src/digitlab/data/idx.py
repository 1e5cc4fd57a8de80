"""Reads and writes IDX files, the format of MNIST: a header with type and dimensions, then one byte for each value.

The sources and ``api.own_data`` use it. The reader refuses a file that is too short or too long, even by one byte, or
that holds values of another type. It also refuses a header that states more values than the file can hold, and checks
this before it allocates memory. Files compressed with gzip are recognised by their first two bytes.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from digitlab.core.errors import DataError
from digitlab.core.files import write_atomically
from digitlab.data.checksum import expect_sha256

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08  # the format's code for unsigned bytes, the only type that images and labels have
_MAX_DIMENSIONS = 4
_BLOCK_BYTES = 1 << 20
# Deflate (RFC 1951), the method of gzip, needs at least 2 bits for 258 bytes, so the content is at most 258 · 8 / 2
# times as long as the file. If a header states more bytes than that, the file is damaged.
_MAX_DEFLATE_RATIO = 1032


def idx_shape(path: Path) -> tuple[int, ...]:
    """Return the dimensions in the header: (N,) for labels, (N, H, W) or (N, C, H, W) for images.

    Raises:
        DataError: the file is missing, cannot be read, is not an IDX file of unsigned bytes, or is too short for the
            number of values in its header.
    """
    with _open_content(path) as (stream, max_bytes):
        return _read_header(path, stream, max_bytes)[1]


def read_idx(path: Path, *, sha256: str | None = None) -> Tensor:
    """Read an IDX file, plain or gzipped, as a uint8 tensor with the dimensions of its header.

    ``sha256`` is the digest of the *uncompressed* content, so it does not depend on how the file was compressed.

    Raises:
        DataError: for the reasons of ``idx_shape``; or the file is truncated, is too long, or has another SHA-256.
    """
    with _open_content(path) as (stream, max_bytes):
        header, shape = _read_header(path, stream, max_bytes)
        values = np.empty(shape, dtype=np.uint8)
        digest = hashlib.sha256(header)
        # Read in blocks, because GzipFile.readinto copies what it reads: the whole file would need twice the memory.
        buffer, read_bytes = values.data.cast("B"), 0
        while block_bytes := stream.readinto(buffer[read_bytes : read_bytes + _BLOCK_BYTES]):
            digest.update(buffer[read_bytes : read_bytes + block_bytes])
            read_bytes += block_bytes
        if read_bytes < values.size:
            raise DataError(f"{path}: truncated, {read_bytes} of the {values.size} values its header states")
        if stream.read(1):  # at the end of the stream, gzip also verifies its own checksum
            raise DataError(f"{path}: longer than the {values.size} values its header states")
    if sha256 is not None:
        expect_sha256(path, digest.hexdigest(), sha256)
    return torch.from_numpy(values)


def write_idx(path: Path, values: Tensor) -> None:
    """Write ``values``, uint8 with at most 4 dimensions, as a plain IDX file; ``read_idx`` returns them again.

    Raises ``RunError`` if the file can't be written.
    """
    header = bytes([0, 0, _UNSIGNED_BYTE, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    write_atomically(path, header + values.contiguous().numpy().tobytes())


def image_shape(path: Path, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (C, H, W) of grey images stored as (N, H, W) or of images stored as (N, C, H, W).

    Raises ``DataError`` for any other number of dimensions; the message names the file ``path``.
    """
    if len(shape) not in (3, 4):
        raise DataError(f"{path}: {len(shape)} dimensions; images have 3 (N, H, W) or 4 (N, C, H, W)")
    channels = shape[1] if len(shape) == 4 else 1
    return channels, shape[-2], shape[-1]


def check_label_count(
    images_file: Path, images_shape: Sequence[int], labels_file: Path, labels_shape: Sequence[int]
) -> None:
    """Raise ``DataError`` if the number of labels is not the number of images; the message names the files."""
    if tuple(labels_shape) != tuple(images_shape[:1]):
        shape = " × ".join(map(str, labels_shape))
        raise DataError(f"{labels_file}: holds {shape} labels for the {images_shape[0]} images of {images_file}")


@contextmanager
def _open_content(path: Path) -> Iterator[tuple[BufferedIOBase, int]]:
    """Open a file and yield a stream of its uncompressed bytes, and an upper limit of their number.

    Errors while reading in the with block become a ``DataError`` that names the file.
    """
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            file_bytes = path.stat().st_size
            yield (gzip.GzipFile(fileobj=file), _MAX_DEFLATE_RATIO * file_bytes) if gzipped else (file, file_bytes)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except EOFError:
        raise DataError(f"{path}: truncated in the middle of its compressed data") from None
    except (OSError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path}: cannot be read ({error})") from error


def _read_header(path: Path, stream: BufferedIOBase, max_bytes: int) -> tuple[bytes, tuple[int, ...]]:
    """Read and check the header; return its bytes and the dimensions."""
    # The first four bytes: two zeros, the code of the type, and the number of dimensions.
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= _MAX_DIMENSIONS:
        raise DataError(f"{path}: not an IDX file (it begins with {magic.hex(' ') or 'nothing'})")
    if magic[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: holds values of type 0x{magic[2]:02x}; only unsigned bytes (0x08) are read")
    sizes = stream.read(4 * magic[3])
    # Each size has four bytes. A truncated header may end within a size, which ``frombuffer`` would refuse.
    shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], dtype=">u4"))
    stated = f"its header states {' × '.join(map(str, shape))} values"
    if len(shape) < magic[3]:
        raise DataError(f"{path}: truncated in its header")
    if 0 in shape:
        raise DataError(f"{path}: empty, {stated}")
    header = magic + sizes
    if math.prod(shape) > max_bytes - len(header):
        raise DataError(f"{path}: truncated, {stated} and it can't hold more than {max_bytes - len(header)}")
    return header, shape
