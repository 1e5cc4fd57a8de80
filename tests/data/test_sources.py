"""The sources read the same arrays as torchvision; one clear error reports damaged, swapped or missing files."""

import gzip
import hashlib
import struct
import tracemalloc
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from digitlab.core.errors import ConfigError, DataError
from digitlab.data.source import ImageSet, Source
from digitlab.data.sources import Cifar10Source, FashionMnistSource, IdxSource, MnistSource
from digitlab.data.splits import split_fingerprint, split_indices


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Path(__file__).parents[2] / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the three data sets in {folder}")
    return folder


def torchvision_set(dataset: type, root: Path, *, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The content of torchvision's class for the same files: uint8 (N, C, H, W), int64 (N,), and class names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of how CIFAR-10's pickles state their dtype
        read = dataset(root, train=train, download=False)
    images = torch.as_tensor(read.data)
    images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
    # MNIST's are "0 - zero" there.
    return images, torch.as_tensor(read.targets), tuple(name.split(" - ")[0] for name in read.classes)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("source", "dataset"),
    [
        (MnistSource(), torchvision.datasets.MNIST),
        (FashionMnistSource(), torchvision.datasets.FashionMNIST),
        (Cifar10Source(), torchvision.datasets.CIFAR10),
    ],
    ids=["mnist", "fashion_mnist", "cifar10"],
)
def test_the_arrays_equal_torchvisions(data: Path, source: Source, dataset: type) -> None:
    source.prepare(data)
    train, test = source.read(data)
    assert source.train_count == len(train.images)
    for ours, is_train in ((train, True), (test, False)):
        images, labels, class_names = torchvision_set(dataset, data, train=is_train)
        assert source.class_names == class_names
        assert (ours.images.dtype, ours.labels.dtype) == (torch.uint8, torch.int64)
        assert tuple(ours.images.shape[1:]) == source.image_shape
        assert torch.equal(ours.images, images)
        assert torch.equal(ours.labels, labels)


def test_cifar10_is_read_a_batch_at_a_time(data: Path) -> None:
    tracemalloc.start()
    try:
        Cifar10Source().read(data)
        # This counts everything but the returned tensors, which PyTorch allocates: one batch as file, as string and as
        # array is 93 MB.
        assert tracemalloc.get_traced_memory()[1] < 110_000_000
    finally:
        tracemalloc.stop()


def test_mnist_needs_only_the_package(tmp_path: Path) -> None:
    source = MnistSource()
    source.prepare(tmp_path)
    train, test = source.read(tmp_path)
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert list(tmp_path.iterdir()) == []
    indices = split_indices(train.labels, val_size=5000, train_size=None, split_seed=0)
    assert split_fingerprint(*indices) == "5427f8fcee276167"  # the default split, on which MNIST's results rest


def idx(*shape: int, start: int = 0, values: int = 256) -> bytes:
    """An IDX file whose values count up from ``start``, modulo ``values``."""
    content = bytes((start + i) % values for i in range(torch.Size(shape).numel()))
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + content


TINY = {
    "train-images-idx3-ubyte": idx(12, 28, 28),
    "train-labels-idx1-ubyte": idx(12, values=10),
    "t10k-images-idx3-ubyte": idx(12, 28, 28, start=7),
    "t10k-labels-idx1-ubyte": idx(12, start=3, values=10),
}


@pytest.fixture
def fashion(
    nowhere: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[FashionMnistSource, Path]:
    """Fashion-MNIST with files of 12 images, and its folder under tmp_path, which holds nothing yet."""
    digests = {name: hashlib.sha256(file).hexdigest() for name, file in TINY.items()}
    monkeypatch.setattr(FashionMnistSource, "digests", digests)
    monkeypatch.setattr(FashionMnistSource, "mirrors", nowhere)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    return FashionMnistSource(), folder


def test_plain_and_gzipped_files_can_be_mixed(fashion, tmp_path: Path) -> None:
    source, folder = fashion
    for number, (name, file) in enumerate(TINY.items()):
        path = folder / (name if number % 2 else f"{name}.gz")
        path.write_bytes(file if number % 2 else gzip.compress(file))
    source.prepare(tmp_path)
    train, test = source.read(tmp_path)
    assert train.images.flatten()[:3].tolist() == [0, 1, 2]
    assert test.images.flatten()[:3].tolist() == [7, 8, 9]
    assert test.labels.tolist() == [(3 + i) % 10 for i in range(12)]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("harm", ["truncated", "one bit", "swapped"])
def test_an_error_names_the_damaged_or_swapped_file_and_a_remedy(fashion, tmp_path: Path, name: str, harm: str) -> None:
    source, folder = fashion
    other = name.replace("train", "t10k") if "train" in name else name.replace("t10k", "train")
    whole = TINY[name]
    harmed = {"truncated": whole[:-1], "one bit": whole[:-1] + bytes([whole[-1] ^ 1]), "swapped": TINY[other]}[harm]
    for each, file in TINY.items():
        (folder / each).write_bytes(harmed if each == name else file)
    source.prepare(tmp_path)
    with pytest.raises(DataError, match=rf"{name}: .*; delete it, and it is fetched again"):
        source.read(tmp_path)


def test_missing_files_are_downloaded_into_torchvisions_folder(
    fashion, served, nowhere, tmp_path: Path, monkeypatch
) -> None:
    (source, folder), (shelf, address) = fashion, served
    monkeypatch.setattr(FashionMnistSource, "mirrors", (*nowhere, address))
    for name, file in TINY.items():
        (shelf / f"{name}.gz").write_bytes(gzip.compress(file))
    source.prepare(tmp_path)
    train, _ = source.read(tmp_path)
    assert len(train.images) == 12
    assert sorted(path.name for path in folder.glob("*.gz")) == sorted(f"{name}.gz" for name in TINY)


@pytest.mark.parametrize(
    "harm", [b"", b"\0\0\x08\x01", TINY["t10k-labels-idx1-ubyte"]], ids=["empty", "cut", "swapped"]
)
def test_a_damaged_file_is_downloaded_again(fashion, served, tmp_path: Path, monkeypatch, harm: bytes) -> None:
    (source, folder), (shelf, address) = fashion, served
    for name, file in TINY.items():
        (folder / name).write_bytes(file)
        (shelf / f"{name}.gz").write_bytes(gzip.compress(file))
    (folder / "train-labels-idx1-ubyte").write_bytes(harm)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: "):
        source.read(tmp_path)
    assert (folder / "train-labels-idx1-ubyte").read_bytes() == harm
    monkeypatch.setattr(FashionMnistSource, "mirrors", (address,))
    train, _ = source.read(tmp_path)
    assert train.labels.tolist() == [i % 10 for i in range(12)]
    assert not list(folder.glob("*.damaged"))


def test_if_all_fails_one_message_lists_attempts_and_remedies(fashion, nowhere, tmp_path: Path) -> None:
    source, folder = fashion
    with pytest.raises(DataError) as caught:
        source.prepare(tmp_path)
    message = str(caught.value)
    for part in ("Fashion-MNIST", str(folder), f"{nowhere[0]}train-images", "refused", "DIGITLAB_DATA", "data=mnist"):
        assert part in message
    with pytest.raises(DataError, match="train-images-idx3-ubyte is in none of"):
        source.read(tmp_path)


def own(tmp_path: Path, **changed: bytes) -> IdxSource:
    """A user's data set with 4 training and 2 test images of 3 x 5 x 6 in three classes, apart from ``changed``."""
    files = {
        "train_images": idx(4, 3, 5, 6),
        "train_labels": idx(4, values=3),
        "test_images": idx(2, 3, 5, 6, start=9),
        "test_labels": idx(2, values=3),
    } | changed
    for name, file in files.items():
        (tmp_path / name).write_bytes(file)
    paths = {name: str(tmp_path / name) for name in files}
    return IdxSource(name="own", class_names=["a", "b", "c"], **paths)


def read(source: IdxSource, root: Path) -> tuple[ImageSet, ImageSet]:
    source.prepare(root)
    return source.read(root)


def test_colour_images_of_a_users_data_set_are_read(tmp_path: Path) -> None:
    source = own(tmp_path)
    train, test = read(source, tmp_path)
    assert (source.image_shape, source.train_count, source.title) == ((3, 5, 6), 4, "own")
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((4, 3, 5, 6), (2, 3, 5, 6))
    assert test.images.flatten()[:2].tolist() == [9, 10]
    assert train.labels.tolist() == [0, 1, 2, 0]


def test_grey_images_get_a_channel(tmp_path: Path) -> None:
    source = own(tmp_path, train_images=idx(4, 5, 6), test_images=gzip.compress(idx(2, 5, 6)))
    train, test = read(source, tmp_path)
    assert source.image_shape == (1, 5, 6)
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((4, 1, 5, 6), (2, 1, 5, 6))


@pytest.mark.parametrize(
    ("changed", "file", "reason"),
    [
        ({"train_labels": idx(3, values=3)}, "train_labels", "holds 3 labels for the 4 images of .*train_images"),
        ({"test_labels": idx(2, 1, values=3)}, "test_labels", "holds 2 × 1 labels"),
        ({"test_images": idx(2, 3, 5, 5)}, "test_images", "train_images has"),
        ({"train_images": idx(4)}, "train_images", "1 dimensions"),
        ({"train_images": idx(4, 3, 5, 6)[:-1]}, "train_images", "truncated"),
        ({"train_labels": b"a,b"}, "train_labels", "not an IDX file"),
    ],
    ids=["count", "labels", "shape", "dimensions", "truncated", "format"],
)
def test_files_that_do_not_fit_are_refused_after_reading_headers(
    tmp_path: Path, changed, file: str, reason: str
) -> None:
    with pytest.raises(DataError, match=f"{file}: .*{reason}"):
        own(tmp_path, **changed).prepare(tmp_path)


def test_a_label_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train_labels: label 3, but there are 3 classes"):
        read(own(tmp_path, train_labels=idx(4)), tmp_path)


@pytest.mark.parametrize("class_names", [["a"], ["a", "a"], [str(number) for number in range(257)]])
def test_class_names_must_be_2_to_256_different_names(class_names: list[str]) -> None:
    with pytest.raises(ConfigError, match="class_names"):
        IdxSource(name="own", class_names=class_names, train_images="", train_labels="", test_images="", test_labels="")
