"""The sources that go through torchvision's classes: small files in the genuine formats, with their own checksums."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError, DataError
from digitlab.data.sources import Cifar100Source, EmnistSource, KmnistSource, QmnistSource, SvhnSource
from digitlab.data.torchvision_sources import TorchvisionSource
from digitlab.training.experiment import Experiment

TRAIN, TEST = 12, 5
NAMES = ("kmnist", "qmnist", "emnist", "svhn", "cifar100")


def idx(values: np.ndarray) -> bytes:
    code = {"uint8": 8, "int32": 12}[values.dtype.name]
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape) + values.byteswap().tobytes()


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(256, size=(count, *shape), dtype=np.uint8)


def labels(count: int, classes: int, first: int = 0) -> np.ndarray:
    return (np.arange(count) * 3 % classes + first).astype(np.uint8)


def zipped(entries: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar(entries: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def mat(count: int) -> bytes:
    stream = io.BytesIO()
    savemat(stream, {"X": pixels(count, 32, 32, 3).transpose(1, 2, 3, 0), "y": labels(count, 10, 1)[:, None]})
    return stream.getvalue()


def qmnist_labels(count: int) -> np.ndarray:
    # The first of eight columns is the class.
    return np.column_stack([labels(count, 10), np.full((count, 7), 99)]).astype(np.int32)


def kmnist(part: str, count: int) -> dict[str, bytes]:
    return {
        f"KMNIST/raw/{part}-images-idx3-ubyte.gz": gzip.compress(idx(pixels(count, 28, 28))),
        f"KMNIST/raw/{part}-labels-idx1-ubyte.gz": gzip.compress(idx(labels(count, 10))),
    }


def qmnist(part: str, count: int) -> dict[str, bytes]:
    return {
        f"QMNIST/raw/qmnist-{part}-images-idx3-ubyte.gz": gzip.compress(idx(pixels(count, 28, 28))),
        f"QMNIST/raw/qmnist-{part}-labels-idx2-int.gz": gzip.compress(idx(qmnist_labels(count))),
    }


def emnist() -> dict[str, bytes]:
    parts = {
        f"gzip/emnist-letters-{part}-{kind}-ubyte.gz": gzip.compress(idx(values))
        for part, count in (("train", TRAIN), ("test", TEST))
        for kind, values in (("images-idx3", pixels(count, 28, 28)), ("labels-idx1", labels(count, 26, 1)))
    }
    return {"EMNIST/raw/gzip.zip": zipped(parts)}


def cifar100(names: tuple[str, ...] = Cifar100Source.class_names) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The archive, and the files in it."""
    parts = {
        part: pickle.dumps({"data": pixels(count, 3072), "fine_labels": labels(count, 100).tolist()}, protocol=2)
        for part, count in (("train", TRAIN), ("test", TEST))
    } | {"meta": pickle.dumps({"fine_label_names": list(names)}, protocol=2)}
    return {"cifar-100-python.tar.gz": tar({f"cifar-100-python/{name}": each for name, each in parts.items()})}, parts


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


Prepared = Callable[[str], tuple[TorchvisionSource, dict[str, bytes]]]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, nowhere: tuple[str, ...]) -> Prepared:
    """``prepared(name)`` is a source and its archives; torchvision's class expects them and no mirror has them."""
    [url] = nowhere

    def prepare(name: str) -> tuple[TorchvisionSource, dict[str, bytes]]:
        if name == "kmnist":
            files = kmnist("train", TRAIN) | kmnist("t10k", TEST)
            monkeypatch.setattr(datasets.KMNIST, "resources", [(Path(f).name, md5(c)) for f, c in files.items()])
            monkeypatch.setattr(datasets.KMNIST, "mirrors", [url])
            return KmnistSource(), files
        if name == "qmnist":
            parts = {"train": qmnist("train", TRAIN), "test": qmnist("test", TEST)}
            known = {part: [(url + Path(f).name, md5(c)) for f, c in each.items()] for part, each in parts.items()}
            monkeypatch.setattr(datasets.QMNIST, "resources", known)
            return QmnistSource(), parts["train"] | parts["test"]
        if name == "emnist":
            files = emnist()
            monkeypatch.setattr(datasets.EMNIST, "md5", md5(*files.values()))
            monkeypatch.setattr(datasets.EMNIST, "url", f"{url}gzip.zip")
            return EmnistSource(split="letters"), files
        if name == "svhn":
            files = {"train_32x32.mat": mat(TRAIN), "test_32x32.mat": mat(TEST)}
            known = {f.partition("_")[0]: [url + f, f, md5(c)] for f, c in files.items()}
            monkeypatch.setattr(datasets.SVHN, "split_list", known)
            return SvhnSource(), files
        archive, parts = cifar100()
        known = datasets.CIFAR100
        monkeypatch.setattr(known, "tgz_md5", md5(*archive.values()))
        monkeypatch.setattr(known, "url", f"{url}{known.filename}")
        monkeypatch.setattr(known, "train_list", [["train", md5(parts["train"])]])
        monkeypatch.setattr(known, "test_list", [["test", md5(parts["test"])]])
        monkeypatch.setattr(known, "meta", known.meta | {"md5": md5(parts["meta"])})
        return Cifar100Source(), archive

    return prepare


def write(root: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.mark.parametrize("name", NAMES)
def test_images_and_labels_are_those_of_torchvision(prepared: Prepared, tmp_path: Path, name: str, capsys: Any) -> None:
    source, archives = prepared(name)
    write(tmp_path, archives)
    source.prepare(tmp_path)
    for is_train, count, ours in zip((True, False), (TRAIN, TEST), source.read(tmp_path), strict=True):
        assert (ours.images.dtype, ours.labels.dtype) == (torch.uint8, torch.int64)
        assert tuple(ours.images.shape) == (count, *source.image_shape)
        assert ours.images.is_contiguous()
        theirs = source.open(tmp_path, train=is_train)
        for image, label, (picture, target) in zip(ours.images, ours.labels.tolist(), theirs, strict=True):
            # torchvision leaves EMNIST's images transposed, and its letters start at 1.
            should = np.atleast_3d(np.array(picture)).transpose((1, 0, 2) if name == "emnist" else (0, 1, 2))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), should)
            assert label == target - (name == "emnist")
            if hasattr(theirs, "classes"):
                assert source.class_names[label] == theirs.classes[target].partition(" - ")[0]
    assert capsys.readouterr() == ("", "")
    # The archives are not needed any more.
    for archive in archives:
        if archive not in source.files:
            (tmp_path / archive).unlink()
    source.prepare(tmp_path)
    source.read(tmp_path)


@pytest.mark.parametrize("split", EmnistSource.counts)
def test_the_classes_of_every_split_of_emnist_are_those_of_torchvision(split: Any) -> None:
    theirs = datasets.EMNIST.classes_split_dict[split]
    assert list(EmnistSource(split=split).class_names) == [name for name in theirs if name != "N/A"]


def test_cifar100_has_a_hundred_classes_in_alphabetical_order() -> None:
    assert len(set(Cifar100Source.class_names)) == 100
    assert list(Cifar100Source.class_names) == sorted(Cifar100Source.class_names)
    assert KmnistSource.class_names == tuple(datasets.KMNIST.classes)


@pytest.mark.parametrize("name", NAMES)
def test_without_files_and_network_one_line_says_which_file_to_put_where(
    prepared: Prepared, tmp_path: Path, name: str
) -> None:
    source, archives = prepared(name)
    with pytest.raises(DataError) as caught:
        source.prepare(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{source.title} is not in {tmp_path} and can't be fetched (http://127.0.0.1:9/")
    for archive in archives:
        assert Path(archive).name in message.partition("put ")[2]
        assert f"into {(tmp_path / archive).parent}" in message
    assert "\n" not in message


def test_a_missing_archive_is_downloaded(
    prepared: Prepared, served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    source, archives = prepared("cifar100")
    write(folder, archives)
    monkeypatch.setattr(datasets.CIFAR100, "url", url + datasets.CIFAR100.filename)
    source.prepare(tmp_path / "data")
    assert len(source.read(tmp_path / "data")[0].images) == TRAIN


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_archive_is_named_and_not_replaced(prepared: Prepared, tmp_path: Path, name: str) -> None:
    source, archives = prepared(name)
    write(tmp_path, {path: content[:-9] for path, content in archives.items()})
    if name == "svhn":  # its archives are the files that are read
        with pytest.raises(DataError, match=r"^SVHN can't be read: Dataset not found or corrupted.* delete its files"):
            source.read(tmp_path)
        return
    with pytest.raises(
        DataError, match=r"damaged, or another file \(its MD5 is .*; delete it, and it is fetched again"
    ):
        source.prepare(tmp_path)


@pytest.mark.parametrize("name", ["kmnist", "qmnist", "emnist", "cifar100"])
def test_damaged_files_are_named(prepared: Prepared, tmp_path: Path, name: str) -> None:
    source, archives = prepared(name)
    write(tmp_path, archives)
    source.prepare(tmp_path)
    damaged = tmp_path / source.files[0]
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match=f"^{source.title} can't be read: .*; delete its files") as caught:
        source.read(tmp_path)
    assert str(damaged) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_without_class_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    source, archives = prepared("kmnist")
    write(tmp_path, archives)
    source.prepare(tmp_path)
    (tmp_path / "KMNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(labels(TRAIN, 10, 1)))
    with pytest.raises(DataError, match=r"KMNIST in .*: label 10, but there are 10 classes"):
        source.read(tmp_path)


def test_other_class_names_of_cifar100_are_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, archives = prepared("cifar100")
    write(tmp_path, archives)
    source.prepare(tmp_path)
    [_, parts] = cifar100(Cifar100Source.class_names[::-1])
    (tmp_path / "cifar-100-python/meta").write_bytes(parts["meta"])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": md5(parts["meta"])})
    with pytest.raises(DataError, match="the file meta names other classes"):
        source.read(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_names_the_source(name: str, tmp_path: Path) -> None:
    typed = [f"data={name}", f"data.root={tmp_path}", "trainer=cpu"]
    experiment = Experiment.from_config(compose(typed), typed=typed)
    assert experiment.data.source.name == name
    assert experiment.data.source.train_count >= 50_000


def test_a_wrong_split_of_emnist_is_refused() -> None:
    typed = ["data=emnist", "data.split=letter", "trainer=cpu"]
    with pytest.raises(ConfigError, match=r"^data.split=letter: must be byclass.*\(did you mean `letters`\?\)$"):
        Experiment.from_config(compose(typed), typed=typed)
