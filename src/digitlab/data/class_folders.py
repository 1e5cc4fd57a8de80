"""Lists the pictures in class folders, laid out as for ``torchvision.datasets.ImageFolder``; it opens none of them.

``folder_source`` uses it. The folder of a data set contains either one folder for each class, or folders named
``train``, ``val`` and ``test`` that contain the class folders. Hidden files and folders are ignored.
"""

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from digitlab.core.errors import ConfigError, listed
from digitlab.data.own_images import picture_extensions
from digitlab.data.splits import stratified

# The split that a folder of this name holds; names are compared in lower case.
_SPLIT_OF_NAME = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture: its path relative to the folder of the data set, with slashes, and the index of its class."""

    path: str
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFolders:
    """What a folder contains: the class names in natural order, and the pictures of each split, class by class.

    ``val`` and ``test`` are None if the folder has no folder for this split. ``ignored`` counts what is not read and
    not hidden: other files in class folders by their extension, pictures outside of class folders, and folders besides
    those of the splits.
    """

    root: Path
    class_names: tuple[str, ...]
    train: list[PictureFile]
    val: list[PictureFile] | None = None
    test: list[PictureFile] | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts names as people do: "9" before "10", "img2" before "img10", and "b" after "A"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def list_class_folders(root: Path) -> ClassFolders:
    """List the pictures under ``root``, which must be a folder.

    Class names are those of the folders of all splits together, so a class that is missing in one split keeps its
    index.

    Raises:
        ConfigError: there are fewer than two classes, a class without pictures, or a folder that cannot be read or
            whose name cannot be shown; the key is ``path``.
    """
    split_folders = _split_folders(root)
    class_folders = {split: _folders(root, folder) for split, folder in split_folders.items()}
    ignored: Counter[str] = Counter()
    class_by_folder: dict[str, str] = {}
    for folders in class_folders.values():
        class_by_folder |= {folder: _class_name(root, folder) for folder in folders}
    # Folder names that differ only in their Unicode form are one class. ``dict.fromkeys`` removes the repetitions.
    class_names = tuple(sorted(dict.fromkeys(class_by_folder.values()), key=natural_order))
    _require_classes(root, split_folders, class_names)
    labels = {folder: class_names.index(name) for folder, name in class_by_folder.items()}
    pictures: dict[str, list[PictureFile]] = {}
    if "" not in split_folders.values():
        ignored.update(f"folder {name}" for name in _folders(root, "") if name not in split_folders.values())
    for split, split_folder in split_folders.items():
        ignored.update(_stray_pictures(root / split_folder))
        pictures[split] = [
            PictureFile(path, labels[folder])
            for folder in sorted(class_folders[split], key=labels.__getitem__)
            for path in _pictures(root, os.path.join(split_folder, folder), ignored)
        ]
    _require_pictures(root, class_names, pictures)
    return ClassFolders(
        root=root, class_names=class_names, train=pictures["train"], val=pictures.get("val"),
        test=pictures.get("test"), ignored=ignored,
    )  # fmt: skip


def hold_out(files: Sequence[PictureFile], test_size: int | float) -> tuple[list[PictureFile], list[PictureFile]]:
    """Split ``files`` into training and test pictures; both keep the order of ``files``.

    ``test_size`` is a count, or a fraction in (0, 1). The test part is stratified: each class has the same share in it.
    Within a class, the pictures are taken in the order of the SHA-256 of their paths. This is like a random order, but
    the same in every run and on every machine, and adding a few pictures moves few of the others.

    Raises:
        ConfigError: ``test_size`` is out of range, or leaves no training picture of a class.
    """
    targets = np.array([file.label for file in files])
    classes = len(set(targets.tolist()))
    max_count = len(files) - classes
    count = test_size if isinstance(test_size, int) else round(test_size * len(files))
    is_count_or_fraction = isinstance(test_size, int) or 0 < test_size < 1
    if not is_count_or_fraction or not 1 <= count <= max_count:
        allowed = (
            f"must be a count from 1 to {max_count} or a fraction in (0, 1) of the {len(files):,} pictures that leaves "
        )
        raise ConfigError("test_size", test_size, f"{allowed}a training picture of each class")
    order = np.array(sorted(range(len(files)), key=lambda index: _path_digest(files[index].path)))
    test_indices = set(order[stratified(targets[order])][:count].tolist())
    train = [file for index, file in enumerate(files) if index not in test_indices]
    if len({file.label for file in train}) < classes:
        raise ConfigError("test_size", test_size, "leaves a class without training pictures; make it smaller")
    return train, [file for index, file in enumerate(files) if index in test_indices]


def _path_digest(path: str) -> str:
    # Normalised, because operating systems write letters such as ö in two different forms.
    return hashlib.sha256(unicodedata.normalize("NFC", path).encode(errors="surrogateescape")).hexdigest()


def _split_folders(root: Path) -> dict[str, str]:
    """Return the folder of each split (train, val, test), relative to ``root``.

    If the class folders are directly in ``root``, it returns ``{"train": ""}``.
    """
    folders = _folders(root, "")
    split_by_folder = {name: _SPLIT_OF_NAME[name.casefold()] for name in folders if name.casefold() in _SPLIT_OF_NAME}
    train = [name for name, split in split_by_folder.items() if split == "train"]
    # If all of several folders have names of splits, they are meant as splits, so a mistake in them is an error.
    all_are_splits = len(split_by_folder) == len(folders) > 1
    if all_are_splits and not train:
        raise ConfigError("path", str(root), "has folders for validation and test, but no folder train")
    if all_are_splits and not _folders(root, train[0]):
        raise ConfigError("path", str(root / train[0]), "has no class folders; put the pictures of each class into one")
    # A folder called train may also be a class, for example next to the classes bus and car. So folders are splits only
    # if train contains folders, and if train is the only folder or another folder has the name of a split.
    if not train or (len(split_by_folder) < 2 and len(folders) > 1) or not _folders(root, train[0]):
        return {"train": ""}
    for split in set(split_by_folder.values()):
        names = sorted(name for name in split_by_folder if split_by_folder[name] == split)
        if len(names) > 1:
            raise ConfigError("path", str(root), f"has several folders for one split: {', '.join(names)}")
    return {split: name for name, split in split_by_folder.items()}


def _folders(root: Path, folder: str) -> list[str]:
    """Return the names of the folders in ``folder``, which is relative to ``root``, without hidden ones."""
    try:
        with os.scandir(root / folder) as entries:
            return sorted(entry.name for entry in entries if not _hidden(entry.name) and entry.is_dir())
    except OSError as error:
        raise ConfigError("path", str(root / folder), f"can't be read: {error.strerror or error}") from error


def _hidden(name: str) -> bool:
    # __MACOSX comes from archives that macOS wrote.
    return name.startswith(".") or name == "__MACOSX"


def _pictures(root: Path, folder: str, ignored: Counter[str]) -> Iterable[str]:
    """Return the pictures in a class folder and in the folders inside it; count other files in ``ignored``."""
    paths: list[str] = []
    visited: set[tuple[int, int]] = set()

    def raise_error(error: OSError) -> None:
        raise ConfigError("path", str(error.filename or root / folder), f"can't be read: {error.strerror}")

    for current, folders, files in os.walk(root / folder, followlinks=True, onerror=raise_error):
        # A link may lead back to a folder above it, so visit each folder only once. Device and inode identify a folder.
        # ``os.walk`` descends into the folders that are left in ``folders``.
        status = os.stat(current)
        identity = status.st_dev, status.st_ino
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)
        folders[:] = [name for name in folders if not _hidden(name)]
        relative = Path(current).relative_to(root).as_posix()
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if _hidden(name):
                continue
            if _is_no_file(os.path.join(current, name)):
                ignored["no regular file"] += 1
            elif extension in picture_extensions():
                paths.append(f"{relative}/{name}")
            else:
                ignored[extension or "no extension"] += 1
    return sorted(paths, key=lambda path: [natural_order(part) for part in path.split("/")])


def _is_no_file(path: str) -> bool:
    """Return whether ``path`` is a pipe, a socket or a device, on which reading could wait for ever."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False  # a broken link, for example, which is reported when it is read


def _stray_pictures(folder: Path) -> Counter[str]:
    """Count the pictures directly in ``folder``, which belong to no class, as ``ClassFolders.ignored`` does."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not _hidden(entry.name) and entry.is_file()]
    pictures = sum(os.path.splitext(name)[1].lower() in picture_extensions() for name in names)
    return Counter({"pictures outside of class folders": pictures} if pictures else {})


def _class_name(root: Path, name: str) -> str:
    """Return the class name for the folder ``name``; refuse a name that figures and tables cannot show."""
    class_name = unicodedata.normalize("NFC", name)
    try:
        class_name.encode()
    except UnicodeEncodeError:
        printable = os.fsencode(name).decode("utf-8", "replace")
        raise ConfigError("path", str(root), f"the name of the class folder {printable} is not UTF-8") from None
    if not class_name.isprintable():
        raise ConfigError(
            "path", str(root), f"the name of the class folder {class_name!r} has letters that do not print"
        )
    return class_name


def _require_classes(root: Path, split_folders: Mapping[str, str], class_names: Sequence[str]) -> None:
    """Raise ``ConfigError`` if there are fewer than two classes; its message guesses what the user meant."""
    folder = root / split_folders["train"]
    if len(class_names) > 1:
        return
    if not class_names and not folder.is_dir():
        raise ConfigError("path", str(folder), "there is no such folder")
    if not class_names:
        pictures = sum(_stray_pictures(folder).values())
        problem = f"has {pictures} pictures but no class folders" if pictures else "has no class folders with pictures"
        raise ConfigError(
            "path", str(folder), f"{problem}; put the pictures of each class into a folder named after it"
        )
    # The only folder may be the folder of the data set that the user meant.
    inner = folder / class_names[0]
    hint = f"; did you mean {inner}?" if inner.is_dir() and len(_folders(inner, "")) > 1 else ""
    raise ConfigError("path", str(folder), f"has one class folder, {class_names[0]}; there must be two or more{hint}")


def _require_pictures(root: Path, class_names: Sequence[str], pictures: Mapping[str, Sequence[PictureFile]]) -> None:
    """Raise ``ConfigError`` if a class or a split has no pictures. ``pictures`` are those of each split."""
    labels = {file.label for files in pictures.values() for file in files}
    empty = [name for label, name in enumerate(class_names) if label not in labels]
    if not labels:
        reason = "; it has no files of a format that digitlab reads, such as PNG or JPEG"
        raise ConfigError("path", str(root), f"has class folders, but no pictures{reason}")
    if empty:
        names = listed(empty)
        raise ConfigError("path", str(root), f"the class folder {names} has no pictures; fill it or remove it")
    for split, files in pictures.items():
        if not files:
            raise ConfigError("path", str(root), f"has a folder for the split {split} without pictures")
