"""EMNIST: handwritten letters and digits, divided into classes in six ways; the key ``data.split`` chooses one.

``conf/data/emnist.yaml`` names ``EmnistData``, a data module of its own because of this key. ``EmnistSource`` reads the
files with a class of torchvision, as the sources in ``torchvision_sources`` do.
"""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from digitlab.config.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, checked
from digitlab.data.module import ImageData
from digitlab.data.torchvision_sources import Archive, MnistLike, torchvision_datasets

EmnistSplit = Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]
# The lower-case letters that are not merged with their capitals, because they look different (Cohen et al., 2017).
_UNMERGED = "abdefghnqrt"


class EmnistSource(MnistLike):
    """EMNIST (Cohen et al., 2017): handwritten letters and digits; ``split`` is one of six divisions into classes.

    ``byclass`` has the 62 digits and letters, ``bymerge`` and ``balanced`` merge 15 lower-case letters with their
    capitals, ``letters`` has 26 letters without case, ``digits`` and ``mnist`` have digits.
    """

    name = "emnist"
    margin_pixels = 2  # the width of the black margin around each figure, by Cohen et al. (2017)
    counts: ClassVar[Mapping[str, int]] = {
        "byclass": 697_932, "bymerge": 697_932, "balanced": 112_800, "letters": 124_800, "digits": 240_000,
        "mnist": 60_000,
    }  # fmt: skip
    classes: ClassVar[Mapping[str, str]] = {
        "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
        "bymerge": string.digits + string.ascii_uppercase + _UNMERGED,
        "balanced": string.digits + string.ascii_uppercase + _UNMERGED,
        "letters": string.ascii_lowercase, "digits": string.digits, "mnist": string.digits,
    }  # fmt: skip

    @checked
    def __init__(self, *, split: EmnistSplit) -> None:
        self.split, self.title, self.train_count = split, f"EMNIST {split}", self.counts[split]
        self.class_names = tuple(self.classes[split])

    @property
    def archives(self) -> Sequence[Archive]:
        return [Archive("EMNIST/raw/gzip.zip", [torchvision_datasets().EMNIST.url], torchvision_datasets().EMNIST.md5)]

    @property
    def files(self) -> Sequence[str]:
        parts = [(part, kind) for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]
        return [f"EMNIST/raw/emnist-{self.split}-{part}-{kind}-ubyte" for part, kind in parts]

    def open(self, root: Path, *, train: bool, download: bool = False) -> Any:
        return torchvision_datasets().EMNIST(root, split=self.split, train=train, download=download)

    def tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        # The files hold the images with rows and columns exchanged, and the labels of ``letters`` start at 1.
        first_label = 1 if self.split == "letters" else 0
        return dataset.data.transpose(1, 2).unsqueeze(1), dataset.targets - first_label


class EmnistData(ImageData):
    """The data module of EMNIST. It adds ``split`` to the arguments of ``ImageData``, so ``data.split`` is a key."""

    @checked
    def __init__(
        self,
        *,
        split: EmnistSplit,
        root: str,
        batch_size: PositiveInt,
        val_size: NonNegativeInt | Fraction,
        train_size: PositiveInt | PositiveFloat | None,
        split_seed: NonNegativeInt,
        normalize: Literal["standard", "unit"],
        folds: PositiveInt | None = None,
        fold: NonNegativeInt = 0,
        deskew: bool = False,
    ) -> None:
        super().__init__(
            source=EmnistSource(split=split), root=root, batch_size=batch_size, val_size=val_size,
            train_size=train_size, split_seed=split_seed, normalize=normalize, folds=folds, fold=fold, deskew=deskew,
        )  # fmt: skip
