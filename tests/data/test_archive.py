"""The CIFAR-10 archive is extracted or downloaded, and errors name it if it is damaged."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from digitlab.core.errors import DataError
from digitlab.data import cifar_source
from digitlab.data.cifar import META, TEST_BATCHES, TRAIN_BATCHES
from digitlab.data.sources import Cifar10Source


@pytest.fixture
def archive(nowhere: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """CIFAR-10's archive with files of a few bytes, which the source is made to expect."""
    files = {name: name.encode() for name in (*TRAIN_BATCHES, *TEST_BATCHES, *META)}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, file in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(file)
            tar.addfile(member, io.BytesIO(file))
    for group in ("TRAIN_BATCHES", "TEST_BATCHES", "META"):
        digests = {name: hashlib.sha256(files[name]).hexdigest() for name in getattr(cifar_source, group)}
        monkeypatch.setattr(cifar_source, group, digests)
    monkeypatch.setattr(Cifar10Source, "archive_sha256", hashlib.sha256(stream.getvalue()).hexdigest())
    monkeypatch.setattr(Cifar10Source, "mirrors", nowhere)
    return stream.getvalue()


def extracted(root: Path) -> set[str]:
    return {path.name for path in (root / "cifar-10-batches-py").iterdir()}


def test_an_archive_in_the_root_folder_is_extracted(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    Cifar10Source().prepare(tmp_path)
    assert extracted(tmp_path) == {*TRAIN_BATCHES, *TEST_BATCHES, *META}


def test_the_archive_is_downloaded_and_extracted_if_a_batch_is_missing(
    archive: bytes,
    served: tuple[Path, str],
    nowhere: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf, address = served
    (shelf / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(Cifar10Source, "mirrors", (*nowhere, address))
    Cifar10Source().prepare(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    Cifar10Source().prepare(tmp_path)
    assert extracted(tmp_path) == {*TRAIN_BATCHES, *TEST_BATCHES, *META}


def test_errors_name_a_damaged_archive_or_batch_and_a_remedy(archive: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(archive[:-1])
    with pytest.raises(DataError, match=rf"{path.name}: damaged.*; delete it, and it is fetched again"):
        Cifar10Source().prepare(tmp_path)
    path.write_bytes(archive)
    Cifar10Source().prepare(tmp_path)
    path.unlink()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"data_batch_2")
    with pytest.raises(DataError, match=r"data_batch_1: damaged.*; delete it, and it is fetched again"):
        Cifar10Source().read(tmp_path)


def test_a_damaged_batch_is_extracted_again_if_its_archive_exists(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    Cifar10Source().prepare(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    batch.write_bytes(b"data_batch_2")
    # What the archive holds here are no images.
    with pytest.raises(DataError, match="data_batch_1: refused, not a batch"):
        Cifar10Source().read(tmp_path)
    assert batch.read_bytes() == b"data_batch_1"


def test_without_archive_and_network_one_message_lists_remedies(
    archive: bytes, nowhere: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        Cifar10Source().prepare(tmp_path)
    for part in ("CIFAR-10", f"put cifar-10-python.tar.gz into {tmp_path}", nowhere[0], "DIGITLAB_DATA", "data=mnist"):
        assert part in str(caught.value)
