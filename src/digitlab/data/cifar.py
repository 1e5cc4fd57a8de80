"""Reads the original CIFAR-10 files: the archive ``cifar-10-python.tar.gz`` and its Python 2 pickles.

``cifar_source`` uses it. CIFAR-10 calls its files batches; each holds 10,000 images. Loading a pickle can run any
program, so three things protect the user: the SHA-256 of the file is checked first, the unpickler accepts only the
three functions and classes that these files need, and the result is checked afterwards.
"""

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from digitlab.core.errors import DataError, MissingDataError
from digitlab.core.files import atomic_file
from digitlab.data.checksum import check_file

# File names and their SHA-256. `batches.meta` holds the class names; only torchvision needs it.
TRAIN_BATCHES: Mapping[str, str] = {
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
}
TEST_BATCHES: Mapping[str, str] = {"test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"}
META: Mapping[str, str] = {"batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb"}
BATCH_IMAGES = 10_000

_MAX_MEMBER_BYTES = 1 << 25  # 33.6 MB; the largest file in the archive has 31 MB
_VALUES_PER_IMAGE = 3 * 32 * 32


def _unsigned_byte(code: str | bytes, *_: int) -> np.dtype[np.uint8]:
    """Replace ``numpy.dtype`` in a pickle: the files hold unsigned bytes only.

    The pickle calls ``numpy.dtype`` with arguments of old versions, about which NumPy itself would warn.
    """
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"an array of {code!r}")
    return np.dtype(np.uint8)


def _empty_array(*_: object) -> npt.NDArray[np.uint8]:
    """Replace NumPy's array constructor in a pickle, which would allocate as much memory as the file asks for."""
    return np.empty(0, dtype=np.uint8)


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _empty_array,
    ("numpy", "dtype"): _unsigned_byte,
}


class _ArraysOnly(pickle._Unpickler):
    """Unpickler that can create only uint8 arrays.

    It is derived from the unpickler in Python, which is as fast here. The one in C would allocate as much memory as any
    number in a damaged file claims.
    """

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_batch(path: Path, *, sha256: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Read one batch file: pixels uint8 (N, 3072), the red, green and blue planes row by row, and N labels in 0 … 9.

    Raises:
        DataError: the file is missing, has another SHA-256, asks for something other than arrays when it is unpickled,
            or does not hold pixels and labels.
    """
    try:
        check_file(path, sha256)
        # Unpickle from memory, so that a damaged pickle cannot make the file object read more bytes than there are.
        content = io.BytesIO(path.read_bytes())
        # Python 2 stored the pixels as a string. With encoding="bytes", its 31 MB stay bytes instead of being decoded
        # to text and encoded again. So the keys of the dictionary are bytes, too.
        batch = _ArraysOnly(content, encoding="bytes").load()
    except OSError as error:
        kind = MissingDataError if isinstance(error, FileNotFoundError) else DataError
        raise kind(f"{path}: cannot be read ({error.strerror})") from error
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise any exception
        raise DataError(f"{path}: refused, not a batch of CIFAR-10 ({' '.join(str(error).split())})") from error
    return _checked_batch(path, batch)


def _checked_batch(path: Path, batch: object) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Return pixels and labels of an unpickled batch, or raise ``DataError`` if it has another form."""
    pixels, labels = (batch.get(b"data"), batch.get(b"labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise DataError(f"{path}: no batch of CIFAR-10, `data` and `labels` are not in it")
    if pixels.shape != (len(labels), _VALUES_PER_IMAGE) or pixels.dtype != np.uint8:
        raise DataError(f"{path}: pixels {pixels.dtype} {pixels.shape} do not fit {len(labels)} labels")
    if not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise DataError(f"{path}: a label is none of 0 … 9")
    return pixels, labels


def extract(archive: Path, folder: Path, digests: Mapping[str, str]) -> None:
    """Extract the files named in ``digests`` (file name to SHA-256) from the archive into ``folder``.

    In the archive, they are in a folder of the same name as ``folder``. Each file is written under a temporary name,
    verified, and then moved into place, so that two processes can extract at the same time.

    Raises:
        DataError: the archive is damaged, lacks one of the files, or contains a path outside its own folder; a member
            is not a regular file or is too large; or ``folder`` cannot be written.
    """
    # The files that are still to be found in the archive, by their path there.
    wanted = {f"{folder.name}/{name}": sha256 for name, sha256 in digests.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                _refuse_path(archive, member.name)
                if member.name in wanted:
                    _extract_member(tar, member, folder.parent / member.name, wanted.pop(member.name))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{archive}: cannot be unpacked into {folder} ({error})") from error
    if wanted:
        raise DataError(f"{archive}: {', '.join(wanted)} missing in it")


def _refuse_path(archive: Path, name: str) -> None:
    """Raise ``DataError`` for an absolute path or one with ``..``, which could write outside the folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{archive}: refused, it names the path {name}")


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, sha256: str) -> None:
    """Write one member of the archive to ``target``, which appears only when it is complete and verified."""
    source = tar.extractfile(member) if member.isreg() else None
    if source is None or member.size > _MAX_MEMBER_BYTES:
        raise DataError(f"{tar.name!s}: refused, {member.name} is no regular file of at most {_MAX_MEMBER_BYTES} bytes")
    with source, atomic_file(target) as file:
        while block := source.read(1 << 20):
            file.write(block)
        file.flush()
        _check_member(tar, member, Path(file.name), sha256)


def _check_member(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path, sha256: str) -> None:
    """Verify an extracted file; an error names the archive and the member."""
    try:
        check_file(file, sha256)
    except DataError as error:
        raise DataError(f"{tar.name!s}: {member.name} in it is damaged, or another file") from error
