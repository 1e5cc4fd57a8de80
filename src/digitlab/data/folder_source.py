"""``FolderSource``: a data set of the user's own pictures in class folders; ``FolderData`` is its data module.

``conf/data/folder.yaml`` names ``FolderData``. ``class_folders`` lists the files, ``picture_files`` reads them.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from digitlab.config.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, checked
from digitlab.core.errors import ConfigError, DataError, listed
from digitlab.core.files import expand_home, path_text
from digitlab.core.system import memory_bytes
from digitlab.data.class_folders import PictureFile, hold_out, list_class_folders
from digitlab.data.module import ImageData
from digitlab.data.picture_files import Pictures, colours_and_common_size, read_pictures
from digitlab.data.sampling import every_nth
from digitlab.data.source import ImageSet, Source

# Without data.size, pictures are scaled to this number of pixels a side, unless all have one size that is not larger.
_DEFAULT_SIZE = 64
# The default size and number of channels follow from the headers of this many files, evenly spread over the data set.
_SAMPLED_FILES = 200
# Without data.test_size, this share of all pictures is the test set.
_DEFAULT_TEST_SIZE = 0.2
# Without data.val_size, this share of the other pictures is used for validation.
_DEFAULT_VAL_SIZE = 0.1
# An error or a warning names at most this many files.
_MAX_NAMED_FILES = 10

Size = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]

_log = logging.getLogger(__name__)


class FolderSource(Source):
    """Pictures in class folders, as ``torchvision.datasets.ImageFolder`` reads them, scaled to one size.

    ``path`` is a folder with one folder for each class, or with folders ``train``, ``val`` and ``test`` that contain
    the class folders. ``size`` is the number of pixels a side, or [height, width], and ``channels`` is 1 (grey) or 3;
    if they are None, they follow from the files. Without a folder ``test``, ``test_size`` (a count or a fraction, by
    default a fifth) of the pictures are the test set, always the same ones. Pictures in a folder ``val`` are the last
    images of the training set, and ``val_count`` is their number. ``skip_broken`` leaves out files that cannot be read.

    Raises:
        ConfigError: ``path`` is not such a folder, or a setting does not fit it.
    """

    name = "folder"

    @checked
    def __init__(
        self,
        *,
        path: str | Path,
        size: Size | None = None,
        channels: Literal[1, 3] | None = None,
        test_size: PositiveInt | Fraction | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.folders = list_class_folders(_resolve_folder(expand_home(path)))
        self.class_names = self.folders.class_names
        # Matplotlib reads the text between two dollar signs as a formula.
        self.title = (self.folders.root.name or str(self.folders.root)).replace("$", "_")
        self._size, self._channels, self._skip_broken = size, channels, skip_broken
        self.train_files, self.test_files = self.folders.train, self.folders.test
        if self.test_files is None:
            share = _DEFAULT_TEST_SIZE if test_size is None else test_size
            self.train_files, self.test_files = hold_out(self.train_files, share)
        elif test_size is not None:
            raise ConfigError("test_size", test_size, f"must be null, because {self.folders.root} has a test folder")
        if self.folders.val is not None:
            self.val_count = len(self.folders.val)
            self.train_files = [*self.train_files, *self.folders.val]

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of all images after scaling."""
        has_colours, size = True, None
        if self._size is None or self._channels is None:
            files = every_nth(self.train_files, _SAMPLED_FILES)
            has_colours, size = colours_and_common_size(self.folders.root, [file.path for file in files])
        if size is None or max(size) > _DEFAULT_SIZE:
            size = _DEFAULT_SIZE, _DEFAULT_SIZE
        # A size or a number of channels that the user has set replaces the one that follows from the files.
        if isinstance(self._size, int):
            size = self._size, self._size
        elif self._size is not None:
            size = self._size[0], self._size[1]
        return self._channels or (3 if has_colours else 1), *size

    @property
    def train_count(self) -> int:
        return len(self.train_files)

    def prepare(self, root: Path) -> None:
        """Check that the folder is still there.

        Raises:
            DataError: it is not.
        """
        if not self.folders.root.is_dir():
            raise DataError(f"{self.folders.root}: there is no such folder any more")

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """Read all pictures as ``Source.read``; a warning lists files that were left out.

        Raises:
            DataError: files cannot be read (at most ten are named) and ``skip_broken`` is false, or the images do not
                fit into memory.
        """
        assert self.test_files is not None
        files = [*self.train_files, *self.test_files]
        self._require_memory(len(files))
        pictures = read_pictures(self.folders.root, [file.path for file in files], image_shape=self.image_shape)
        self._report_broken(files, pictures)
        self._report_ignored(self.folders.ignored)
        parts = {"train": range(self.train_count), "test": range(self.train_count, len(files))}
        readable = {name: [index for index in part if index not in pictures.broken] for name, part in parts.items()}
        if self.folders.val is not None:
            # The pictures of the folder val come last; those that cannot be read no longer count.
            first_val = self.train_count - len(self.folders.val)
            self.val_count = sum(index >= first_val for index in readable["train"])
        self.fingerprint = _fingerprint(files, pictures.digests, parts)
        labels = torch.tensor([file.label for file in files])
        train, test = (_image_set(pictures, labels, readable[name], parts[name]) for name in ("train", "test"))
        return train, test

    def _require_memory(self, count: int) -> None:
        needed, available = count * torch.Size(self.image_shape).numel(), memory_bytes()
        if available is not None and needed > available:
            raise DataError(
                f"{self.folders.root}: {count:,} images of {' × '.join(map(str, self.image_shape))} take "
                f"{needed / 1e9:,.1f} GB, and this machine has {available / 1e9:.1f} GB; choose a smaller data.size"
            )

    def _report_broken(self, files: Sequence[PictureFile], pictures: Pictures) -> None:
        if not pictures.broken:
            return
        named = [f"{path_text(files[index].path)} ({reason})" for index, reason in pictures.broken.items()]
        names = listed(named, most=_MAX_NAMED_FILES, separator="; ")
        problem = f"{len(named)} of {len(files):,} pictures can't be read: {names}"
        if not self._skip_broken:
            remedy = "replace or remove them, or leave them out with data.skip_broken=true"
            raise DataError(f"{self.folders.root}: {problem}; {remedy}")
        _log.warning("%s: %s; they are left out", self.folders.root, problem)

    def _report_ignored(self, ignored: Mapping[str, int]) -> None:
        if ignored:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
            _log.warning("%s: ignored files that are no pictures of a class: %s", self.folders.root, kinds)


class FolderData(ImageData):
    """The data module of pictures in class folders. The other arguments are those of ``ImageData``.

    If the folder has a folder ``val``, its pictures are the validation images, and ``val_size`` and ``folds`` must be
    None. Without one, ``val_size`` is taken from the training pictures (None: a tenth of them). A relative ``path`` is
    looked for in the current folder, then in ``root``.
    """

    @checked
    def __init__(
        self,
        *,
        path: str | None,
        root: str,
        batch_size: PositiveInt,
        val_size: NonNegativeInt | Fraction | None,
        train_size: PositiveInt | PositiveFloat | None,
        split_seed: NonNegativeInt,
        normalize: Literal["standard", "unit"],
        size: Size | None = None,
        channels: Literal[1, 3] | None = None,
        test_size: PositiveInt | Fraction | None = None,
        skip_broken: bool = False,
        folds: PositiveInt | None = None,
        fold: NonNegativeInt = 0,
        deskew: bool = False,
    ) -> None:
        if path is None:
            raise ConfigError("path", None, "must be a folder with a folder of pictures for each class")
        source = FolderSource(
            path=_find_folder(expand_home(path), expand_home(root)), size=size, channels=channels,
            test_size=test_size, skip_broken=skip_broken,
        )  # fmt: skip
        if source.val_count is not None:
            for key, value in (("val_size", val_size), ("folds", folds)):
                if value is not None:
                    raise ConfigError(
                        key, value, f"must be null, because {source.folders.root} has a validation folder"
                    )
        if val_size is None:
            # If a tenth of the pictures rounds to none, train without validation. (``ImageData`` refuses a size that a
            # user gives if it rounds to none.) With ``folds``, the size has no effect, but must not be 0.
            rounds_to_none = folds is None and round(_DEFAULT_VAL_SIZE * source.train_count) == 0
            val_size = 0 if rounds_to_none else _DEFAULT_VAL_SIZE
        super().__init__(
            source=source, root=root, batch_size=batch_size, val_size=val_size,
            train_size=train_size, split_seed=split_seed, normalize=normalize, folds=folds, fold=fold, deskew=deskew,
        )  # fmt: skip


def _find_folder(path: Path, root: Path) -> Path:
    """Return ``path``, or the folder of this name in ``root`` if only that exists."""
    return root / path if not path.is_absolute() and not path.exists() and (root / path).is_dir() else path


def _resolve_folder(path: Path) -> Path:
    """Return the absolute path of a folder; raise ``ConfigError`` if ``path`` is not a folder."""
    if path.is_dir():
        return path.resolve()
    reason = (
        "is a file; it must be a folder with a folder for each class" if path.exists() else "there is no such folder"
    )
    raise ConfigError("path", str(path), reason)


def _image_set(pictures: Pictures, labels: torch.Tensor, readable: Sequence[int], part: range) -> ImageSet:
    """Return images and labels of the files with the indices ``readable``, which are some or all of ``part``."""
    if len(readable) == len(part):
        # Return a view, because a copy would need the memory twice.
        return ImageSet(pictures.images[part.start : part.stop], labels[part.start : part.stop])
    return ImageSet(pictures.images[readable], labels[readable])


def _fingerprint(files: Sequence[PictureFile], digests: Sequence[str], parts: Mapping[str, range]) -> str:
    """Return 16 hexadecimal digits that identify the content of the files, their names, and their parts."""
    digest = hashlib.sha256(repr({name: len(part) for name, part in parts.items()}).encode())
    for file, file_digest in zip(files, digests, strict=True):
        digest.update(f"{file.path}\0{file_digest}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
