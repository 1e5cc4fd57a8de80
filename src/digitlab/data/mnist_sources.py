"""``MnistSource`` and ``FashionMnistSource``: published data sets in four IDX files, verified by SHA-256.

``conf/data/mnist.yaml`` and ``conf/data/fashion_mnist.yaml`` name them (as ``digitlab.data.sources.…``).
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from digitlab.core.errors import DataError, MissingDataError
from digitlab.data.fetch import fetch
from digitlab.data.idx import read_idx
from digitlab.data.idx_source import image_set
from digitlab.data.source import ImageSet, Source
from digitlab.data.source_errors import FETCH_AGAIN, not_obtainable, with_remedy


class _PublishedIdxSource(Source):
    """A published data set in four IDX files, plain or gzipped, that are verified by the SHA-256 of their content."""

    image_shape = (1, 28, 28)
    train_count = 60_000
    digests: Mapping[str, str]  # file name without .gz to SHA-256 of the uncompressed content
    remedy: str  # what the user can do about a damaged file, for error messages

    @abstractmethod
    def folders(self, root: Path) -> tuple[Path, ...]:
        """Return the folders that may hold the files, in the order in which they are searched."""

    def find(self, root: Path, name: str) -> Path | None:
        """Return the path of the file ``name``, plain or with ``.gz``, or None if no folder has it."""
        candidates = (folder / file for folder in self.folders(root) for file in (name, f"{name}.gz"))
        return next((path for path in candidates if path.is_file()), None)

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read and verify the four files as ``Source.read``."""
        # The names of the files of the test set, which has 10,000 images, begin with t10k.
        return self._read_part(root, "train"), self._read_part(root, "t10k")

    def _read_part(self, root: Path, part: str) -> ImageSet:
        images_file, images = self._read_file(root, f"{part}-images-idx3-ubyte")
        labels_file, labels = self._read_file(root, f"{part}-labels-idx1-ubyte")
        return image_set(images_file, labels_file, images, labels, class_count=len(self.class_names))

    def _read_file(self, root: Path, name: str) -> tuple[Path, Tensor]:
        path = self.find(root, name)
        if path is None:
            raise MissingDataError(f"{self.title}: {name} is in none of {', '.join(map(str, self.folders(root)))}")
        with with_remedy(self.remedy):
            return path, read_idx(path, sha256=self.digests[name])


class MnistSource(_PublishedIdxSource):
    """MNIST (LeCun, Cortes and Burges, 1998): 70,000 handwritten digits. The package contains the files."""

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
        # A file of this name in ``root`` is either equal to the one in the package or refused, so ``root`` is not
        # searched.
        return (Path(__file__).parent / "mnist",)

    def prepare(self, root: Path) -> None:
        """Check that the files are in the package.

        Raises:
            DataError: a file is missing.
        """
        absent = [name for name in self.digests if self.find(root, name) is None]
        if absent:
            raise DataError(f"{self.folders(root)[0]}: {', '.join(absent)} missing; {self.remedy}")


class FashionMnistSource(_PublishedIdxSource):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70,000 pictures of clothes in the format of MNIST."""

    name = "fashion_mnist"
    title = "Fashion-MNIST"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    # Pictures are cropped to the garment, and their longer edge is scaled to 28 (Xiao, Rasul and Vollgraf, 2017).
    margin_pixels = 0
    remedy = FETCH_AGAIN
    digests: Mapping[str, str] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
    mirrors: tuple[str, ...] = (
        # Keras's copy; keras/src/datasets/fashion_mnist.py has the SHA-256 of the same bytes.
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        # The authors' repository; its README has the MD5 of each file.
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        # The address in that README, without TLS; the only one that torchvision uses.
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )

    def folders(self, root: Path) -> tuple[Path, ...]:
        # The first is torchvision's folder; Debian's package dataset-fashion-mnist uses the second.
        return (root / "FashionMNIST" / "raw", Path("/usr/share/datasets/fashion-mnist"))

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read the data set as ``Source.read``; download damaged files in ``root`` again if a mirror can be reached."""
        try:
            return super().read(root)
        except DataError:
            backups = {path: path.with_name(f"{path.name}.damaged") for path in self._damaged(root)}
            if not backups:
                raise  # files are missing, which only ``prepare`` downloads
            for path, backup in backups.items():
                path.replace(backup)
            try:
                self.prepare(root)
            except DataError:
                # Put the damaged files back. Then reading them again raises the error that names them.
                for path, backup in backups.items():
                    backup.replace(path)
            for backup in backups.values():
                backup.unlink(missing_ok=True)
            return super().read(root)

    def _damaged(self, root: Path) -> Iterator[Path]:
        """Yield the files in ``root`` that cannot be read or have another SHA-256."""
        for name, sha256 in self.digests.items():
            path = self.find(root, name)
            if path is not None and path.parent == self.folders(root)[0]:
                try:
                    read_idx(path, sha256=sha256)
                except DataError:
                    yield path

    def prepare(self, root: Path) -> None:
        """Download the files that are in none of the folders.

        Raises:
            DataError: as ``Source.prepare``.
        """
        folder = self.folders(root)[0]
        for name in (name for name in self.digests if self.find(root, name) is None):
            target = folder / f"{name}.gz"
            verify = partial(read_idx, sha256=self.digests[name])
            try:
                fetch([url + target.name for url in self.mirrors], target, verify=verify)
            except DataError as error:
                files = f"{', '.join(self.digests)} (as they are or with .gz) into {folder}"
                raise not_obtainable(self, root, self.folders(root), error, files) from error
