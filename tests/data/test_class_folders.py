"""Class folders are listed as by torchvision's ImageFolder, in natural order; other folders are refused."""

import os
from pathlib import Path

import pytest
import torchvision

from digitlab.core.errors import ConfigError
from digitlab.data.class_folders import PictureFile, hold_out, list_class_folders, natural_order


def make(root: Path, *paths: str) -> Path:
    """Empty files: listing does not open them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def refusal(root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        list_class_folders(root)
    assert caught.value.key == "path"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_and_files_are_those_of_image_folder(tmp_path: Path) -> None:
    make(
        tmp_path,
        "cat/1.png",
        "cat/2.JPG",
        "cat/more/a.jpeg",
        "dog (old) ß/x y.bmp",
        "eel[1]/1.webp",
        "eel[1]/notes.txt",
    )
    theirs = torchvision.datasets.ImageFolder(tmp_path)
    ours = list_class_folders(tmp_path)
    assert list(ours.class_names) == theirs.classes
    assert [(str(tmp_path / file.path), file.label) for file in ours.train] == theirs.samples
    assert ours.ignored == {".txt": 1}
    assert (ours.val, ours.test) == (None, None)


def test_names_are_in_natural_order(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/img{number}.png" for name in (10, 9, 2) for number in (10, 9, 1)))
    folders = list_class_folders(tmp_path)
    assert folders.class_names == ("2", "9", "10")
    assert [file.path for file in folders.train[:3]] == ["2/img1.png", "2/img9.png", "2/img10.png"]
    assert sorted(["b", "A", "a10b2", "a10b10", "a9", "10", ""], key=natural_order) == [
        "", "10", "A", "a9", "a10b2", "a10b10", "b"
    ]  # fmt: skip


def test_hidden_folders_and_files_are_ignored(tmp_path: Path) -> None:
    hidden = (".git/a.png", "__MACOSX/cat/1.png", "cat/._1.png", "cat/.ipynb_checkpoints/1.png", ".x.png")
    folders = list_class_folders(make(tmp_path, "cat/1.png", "dog/1.png", *hidden))
    assert folders.class_names == ("cat", "dog")
    assert [file.path for file in folders.train] == ["cat/1.png", "dog/1.png"]
    assert folders.ignored == {}


def test_pipes_and_links_to_devices_are_not_waited_for(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "dog/1.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "dog" / "broken.png").symlink_to("nowhere")
    folders = list_class_folders(tmp_path)
    assert [file.path for file in folders.train] == ["cat/1.png", "dog/1.png", "dog/broken.png"]
    assert folders.ignored == {"no regular file": 2}


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "Testing")])
def test_a_class_that_a_split_lacks_keeps_its_index(tmp_path: Path, names: tuple[str, str, str]) -> None:
    train, val, test = names
    make(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{train}/c/1.png", f"{val}/b/1.png", f"{test}/c/2.png")
    make(tmp_path, "readme/text.md", "cover.jpg", f"{train}/1.png", f"{test}/2.png", f"{test}/notes.txt")
    folders = list_class_folders(tmp_path)
    assert folders.class_names == ("a", "b", "c")
    assert [file.label for file in folders.train] == [0, 1, 2]
    assert folders.ignored == {"folder readme": 1, "pictures outside of class folders": 2}
    assert (folders.val, folders.test) == ([PictureFile(f"{val}/b/1.png", 1)], [PictureFile(f"{test}/c/2.png", 2)])


def test_train_may_be_a_class(tmp_path: Path) -> None:
    make(tmp_path, "bus/1.png", "train/1.png", "car/1.png")
    assert list_class_folders(tmp_path).class_names == ("bus", "car", "train")


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert [file.path for file in list_class_folders(tmp_path).train] == ["a/1.png", "b/1.png"]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ((), "has no class folders with pictures; put the pictures of each class into a folder named after it"),
        (("1.png", "2.png"), "has 2 pictures but no class folders"),
        (("cat/1.png",), "has one class folder, cat; there must be two or more"),
        (("pets/cat/1.png", "pets/dog/1.png"), "did you mean"),
        (("cat/1.txt", "dog/1.csv"), "has class folders, but no pictures"),
        (("cat/1.png", "dog/1.txt"), "the class folder dog has no pictures; fill it or remove it"),
        (("test/1.png", "train/1.png"), "train: has no class folders; put the pictures of each class into one"),
        (("test/a/1.png", "val/b/1.png"), "has folders for validation and test, but no folder train"),
        (
            ("train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/1.png"),
            "several folders for one split: val, valid",
        ),
        (("train/a/1.png", "train/b/1.png", "test/a/x.txt"), "a folder for the split test without pictures"),
        (("a\tb/1.png", "c/1.png"), "has letters that do not print"),
    ],
)
def test_other_folders_are_refused_in_one_line(tmp_path: Path, paths: tuple[str, ...], words: str) -> None:
    assert words in refusal(make(tmp_path, *paths))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn"))).mkdir()
    except OSError:
        pytest.skip("this file system refuses such names")
    assert "is not UTF-8" in refusal(tmp_path)


def files(*counts: int) -> list[PictureFile]:
    return [PictureFile(f"{label}/{i}.png", label) for label, count in enumerate(counts) for i in range(count)]


def test_the_test_part_is_stratified_and_depends_on_the_paths_only() -> None:
    every = files(100, 50, 10)
    train, test = hold_out(every, 0.2)
    assert [sum(file.label == label for file in test) for label in range(3)] == [20, 10, 2]
    assert sorted([*train, *test], key=every.index) == every
    assert set(hold_out(every[::-1], 0.2)[1]) == set(test)
    # After a few pictures were added, nearly all pictures are in the same part.
    assert len(set(hold_out(files(104, 50, 10), 0.2)[1]) & set(test)) >= 30
    assert len(hold_out(every, 7)[1]) == 7


@pytest.mark.parametrize("size", [0.0, 1.0, 0.99, 160, 158, 0.001])
def test_a_test_part_of_a_wrong_size_is_refused(size: float) -> None:
    with pytest.raises(ConfigError, match=r"^test_size="):
        hold_out(files(100, 50, 10), size)
