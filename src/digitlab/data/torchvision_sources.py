"""Published data sets that are read with torchvision's classes: KMNIST, QMNIST, SVHN and CIFAR-100.

``conf/data/`` names them (as ``digitlab.data.sources.…``); ``emnist`` adds EMNIST. digitlab downloads the archives
itself, because torchvision sets no time limit and cannot resume a download; torchvision's classes unpack and read them.
Shapes: N images, C channels, H rows, W columns.
"""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from digitlab.core.errors import DataError, MissingDataError
from digitlab.data.checks import wrong_label
from digitlab.data.checksum import check_md5
from digitlab.data.fetch import fetch
from digitlab.data.source import ImageSet, Source
from digitlab.data.source_errors import FETCH_AGAIN, with_remedy


def torchvision_datasets() -> Any:
    """Import and return ``torchvision.datasets``. The import is slow, so runs on other data sets should not make it."""
    from torchvision import datasets

    return datasets


class Archive(NamedTuple):
    """A file to download: where it belongs, relative to the folder of data sets, its addresses and its MD5."""

    path: str
    urls: Sequence[str]
    md5: str


class TorchvisionSource(Source):
    """A data set that a class of ``torchvision.datasets`` reads from files under the folder of data sets."""

    @property
    @abstractmethod
    def archives(self) -> Sequence[Archive]:
        """The files that are downloaded, with the checksums that torchvision knows."""

    @property
    @abstractmethod
    def files(self) -> Sequence[str]:
        """The files that torchvision reads, relative to the folder of data sets; it unpacks them from the archives."""

    @abstractmethod
    def open(self, root: Path, *, train: bool, download: bool = False) -> Any:
        """Return torchvision's object for the training or test set; with ``download`` it first unpacks the archives.

        It may warn, print and raise any error; the caller hides the output and raises ``DataError``.
        """

    @abstractmethod
    def tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        """Return the content of torchvision's object: images uint8 (N, C, H, W) and integer labels (N,), from 0."""

    def prepare(self, root: Path) -> None:
        """Make sure that the files exist: unpack the archives, and download missing archives first.

        Raises:
            DataError: as ``Source.prepare``.
        """
        if self._complete(root):
            return
        for archive in self.archives:
            path = root / archive.path
            if path.is_file():
                with with_remedy(FETCH_AGAIN):
                    check_md5(path, archive.md5)
                continue
            try:
                fetch(archive.urls, path, verify=partial(check_md5, expected=archive.md5))
            except DataError as error:
                raise self._not_obtainable(root, error) from error
        # With ``download``, torchvision unpacks the archives that it finds. All are there, so it downloads nothing.
        # Some classes unpack the files of both sets at once, others only those of the set that they open.
        for train in (True, False):
            if not self._complete(root):
                self._open_quietly(root, train=train, download=True)

    def _complete(self, root: Path) -> bool:
        return all((root / name).is_file() for name in self.files)

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read the training set and the official test set as ``Source.read``."""
        if missing := [str(root / name) for name in self.files if not (root / name).is_file()]:
            raise MissingDataError(f"{self.title}: {', '.join(missing)} can't be read: no such file")
        return self._read_part(root, train=True), self._read_part(root, train=False)

    def _read_part(self, root: Path, *, train: bool) -> ImageSet:
        images, labels = self.tensors(self._open_quietly(root, train=train))
        problem = wrong_label(labels, len(self.class_names))
        if problem is not None:
            raise DataError(f"{self.title} in {root}: {problem}")
        return ImageSet(images.contiguous(), labels.long())

    def _open_quietly(self, root: Path, *, train: bool, download: bool = False) -> Any:
        """Call ``open`` without warnings and output; turn any error into a ``DataError`` that names the files."""
        try:
            # NumPy warns about the dtypes in CIFAR's pickles, and torchvision prints which archive it extracts.
            with warnings.catch_warnings(), redirect_stdout(StringIO()):
                warnings.simplefilter("ignore")
                return self.open(root, train=train, download=download)
        except Exception as error:  # damaged files make torchvision, NumPy and SciPy raise almost any exception
            reason = " ".join(str(error).split()) or type(error).__name__
            files = ", ".join(str(root / name) for name in self.files)
            raise DataError(
                f"{self.title} can't be read: {reason}; delete its files, and they are fetched again ({files})"
            ) from error

    def _not_obtainable(self, root: Path, download_error: DataError) -> DataError:
        """Return the error for an archive that is not on this machine and cannot be downloaded."""
        reasons = "; ".join(line.strip() for line in str(download_error).splitlines())
        folders: dict[Path, list[str]] = {}
        for archive in self.archives:
            folders.setdefault((root / archive.path).parent, []).append(Path(archive.path).name)
        files = ", and ".join(f"{', '.join(names)} into {folder}" for folder, names in folders.items())
        return DataError(
            f"{self.title} is not in {root} and can't be fetched ({reasons}); put {files}, or set data.root or "
            "DIGITLAB_DATA to the folder of your data sets"
        )


class MnistLike(TorchvisionSource):
    """A data set in the format of MNIST: grey images of 28 x 28 pixels."""

    image_shape = (1, 28, 28)
    train_count = 60_000

    def tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        return dataset.data.unsqueeze(1), dataset.targets


class KmnistSource(MnistLike):
    """Kuzushiji-MNIST (Clanuwat et al., 2018): 70,000 handwritten Japanese characters of ten classes."""

    name = "kmnist"
    title = "KMNIST"
    class_names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    margin_pixels = 0  # the characters fill the frame

    @property
    def archives(self) -> Sequence[Archive]:
        dataset = torchvision_datasets().KMNIST
        return [
            Archive(f"KMNIST/raw/{name}", [mirror + name for mirror in dataset.mirrors], md5)
            for name, md5 in dataset.resources
        ]

    @property
    def files(self) -> Sequence[str]:
        return [archive.path.removesuffix(".gz") for archive in self.archives]

    def open(self, root: Path, *, train: bool, download: bool = False) -> Any:
        return torchvision_datasets().KMNIST(root, train=train, download=download)


class QmnistSource(MnistLike):
    """QMNIST (Yadav and Bottou, 2019): MNIST made again from NIST's files, with 60,000 test digits."""

    name = "qmnist"
    title = "QMNIST"
    class_names = tuple("0123456789")
    margin_pixels = 4  # as MNIST

    @property
    def archives(self) -> Sequence[Archive]:
        resources = torchvision_datasets().QMNIST.resources
        return [
            Archive(f"QMNIST/raw/{url.rpartition('/')[2]}", [url], md5)
            for split in ("train", "test")
            for url, md5 in resources[split]
        ]

    @property
    def files(self) -> Sequence[str]:
        return [archive.path.removesuffix(".gz") for archive in self.archives]

    def open(self, root: Path, *, train: bool, download: bool = False) -> Any:
        return torchvision_datasets().QMNIST(root, train=train, download=download)

    def tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        # Column 0 is the digit; the other columns say who wrote it.
        return dataset.data.unsqueeze(1), dataset.targets[:, 0]


class SvhnSource(TorchvisionSource):
    """SVHN (Netzer et al., 2011): 99,289 colour photographs of house numbers; the class is the digit in the centre."""

    name = "svhn"
    title = "SVHN"
    class_names = tuple("0123456789")
    image_shape = (3, 32, 32)
    train_count = 73_257

    @property
    def archives(self) -> Sequence[Archive]:
        entries = [torchvision_datasets().SVHN.split_list[split] for split in ("train", "test")]
        return [Archive(name, [url], md5) for url, name, md5 in entries]

    @property
    def files(self) -> Sequence[str]:
        return [archive.path for archive in self.archives]

    def open(self, root: Path, *, train: bool, download: bool = False) -> Any:
        return torchvision_datasets().SVHN(root, split="train" if train else "test", download=download)

    def tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.ascontiguousarray(dataset.data)), torch.from_numpy(dataset.labels)


class Cifar100Source(TorchvisionSource):
    """CIFAR-100 (Krizhevsky, 2009): 60,000 colour photographs of 100 classes, 500 training images of each."""

    name = "cifar100"
    title = "CIFAR-100"
    class_names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
        "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
        "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
        "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
        "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
        "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
        "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
        "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel",
        "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
        "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
    image_shape = (3, 32, 32)
    train_count = 50_000

    @property
    def archives(self) -> Sequence[Archive]:
        dataset = torchvision_datasets().CIFAR100
        return [Archive(dataset.filename, [dataset.url], dataset.tgz_md5)]

    @property
    def files(self) -> Sequence[str]:
        return [f"{torchvision_datasets().CIFAR100.base_folder}/{name}" for name in ("train", "test", "meta")]

    def open(self, root: Path, *, train: bool, download: bool = False) -> Any:
        return torchvision_datasets().CIFAR100(root, train=train, download=download)

    def tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        if tuple(dataset.classes) != self.class_names:
            raise DataError(f"{self.title}: the file meta names other classes; {FETCH_AGAIN}")
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2), torch.tensor(dataset.targets)
