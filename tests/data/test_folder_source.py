"""``data=folder``: the pixels of Pillow, the classes of ImageFolder, the splits of the folder, and plain errors."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image, ImageOps

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError, DataError
from digitlab.data import picture_files
from digitlab.data.folder_source import FolderSource
from digitlab.data.own_images import read_own_image
from digitlab.data.picture_files import read_pictures
from digitlab.training.experiment import Experiment

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """``folder(a=20, b=10)`` writes so many pictures of each class; ``a/1`` is a path, ``size`` the size of all."""

    def write(size: tuple[int, int] = (12, 10), mode: str = "RGB", root: str = "pets", **counts: int) -> Path:
        random = np.random.default_rng(0)
        for name, count in counts.items():
            place = tmp_path / root / name.replace("__", "/")
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(256, size=(*size[::-1], len(mode)), dtype=np.uint8).squeeze()
                Image.fromarray(pixels).save(place / f"{number}.png")
        return tmp_path / root

    return write


def experiment(*overrides: str) -> Experiment:
    typed = ["data=folder", "trainer=cpu", *overrides]
    return Experiment.from_config(compose(typed), typed=typed)


def test_images_are_pillows_in_the_order_of_the_files(folder: Folder) -> None:
    root = folder(a=7, b=5)
    source = FolderSource(path=root, size=8)
    train, test = source.read(root)
    assert (source.image_shape, train.images.dtype, train.labels.dtype) == ((3, 8, 8), torch.uint8, torch.int64)
    for images, files in ((train, source.train_files), (test, source.test_files)):
        assert len(images.images) == len(files)
        for image, label, file in zip(images.images, images.labels.tolist(), files, strict=True):
            with Image.open(root / file.path) as picture:
                should = np.array(ImageOps.fit(picture.convert("RGB"), (8, 8)))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), should)
            assert source.class_names[label] == file.path[0]


def test_every_kind_of_picture_is_read_as_for_prediction(folder: Folder) -> None:
    root = folder(a=1, b=1)
    grey = np.arange(144, dtype=np.uint16).reshape(9, 16) * 455
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey).save(root / "a" / "16 bit.png")
    Image.fromarray((grey // 257).astype(np.uint8)).save(root / "a" / "grey.jpg", exif=turned)
    Image.new("RGBA", (8, 8), (255, 0, 0, 100)).save(root / "a" / "alpha.png")
    Image.new("P", (9, 8), 3).save(root / "a" / "palette.gif")
    Image.new("CMYK", (9, 8), (10, 90, 20, 0)).save(root / "a" / "print [CMYK].jpg")
    for channels in (1, 3):
        source = FolderSource(path=root, size=[6, 9], channels=channels)
        assert source.image_shape == (channels, 6, 9)
        train, test = source.read(root)
        for image, file in zip(
            torch.cat([train.images, test.images]), [*source.train_files, *source.test_files], strict=True
        ):
            assert torch.equal(
                image, read_own_image(root / file.path, image_shape=source.image_shape, margin_pixels=None)
            )


def test_dark_pictures_of_16_bits_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    image = read_own_image(tmp_path / "dark.png", image_shape=(1, 4, 4), margin_pixels=None)
    assert image.unique().tolist() == [1]  # 200 of 65535


@pytest.mark.parametrize(
    ("written", "settings", "shape"),
    [
        ({}, {}, (3, 10, 12)),
        ({"mode": "L"}, {}, (1, 10, 12)),
        ({"mode": "L"}, {"channels": 3, "size": 7}, (3, 7, 7)),
        ({"size": (80, 70)}, {}, (3, 64, 64)),
        ({"size": (80, 70)}, {"size": [70, 80]}, (3, 70, 80)),
    ],
)
def test_the_files_decide_about_size_and_channels(folder, written, settings, shape) -> None:
    assert FolderSource(path=folder(a=2, b=2, **written), **settings).image_shape == shape


def test_a_folder_split_by_class_is_divided_into_three_parts(folder: Folder) -> None:
    root = folder(a=50, b=30)
    parts = []
    for split_seed in (0, 1):
        data = experiment(f"data.path={root}", f"data.split_seed={split_seed}").data
        data.setup()
        counts = (
            data.train_set.labels[data.train_indices],
            data.train_set.labels[data.val_indices],
            data.test_set.labels,
        )
        assert [labels.bincount().tolist() for labels in counts] == [[36, 22], [4, 2], [10, 6]]
        parts.append((data.split_fingerprint, data.test_set.images))
    assert parts[0][0] != parts[1][0]
    assert torch.equal(parts[0][1], parts[1][1])


def test_the_folders_of_the_splits_are_used(folder: Folder) -> None:
    root = folder(train__a=9, train__b=8, train__c=7, val__b=3, val__c=2, test__a=4, test__c=1)
    data = experiment(f"data.path={root}", "data.train_size=12").data
    data.setup()
    labels = data.train_set.labels
    assert labels[data.val_indices].bincount().tolist() == [0, 3, 2]
    assert data.test_set.labels.bincount().tolist() == [4, 0, 1]
    assert len(data.train_indices) == 12
    assert data.train_indices.max() < 24 <= data.val_indices.min()


def test_a_test_set_without_pictures_is_refused(folder: Folder) -> None:
    with pytest.raises(ConfigError, match="must be a count from 1 to 15 or a fraction in") as caught:
        experiment(f"data.path={folder(a=9, b=8)}", "data.test_size=0.0")
    assert caught.value.key == "data.test_size"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.val_size=3", "must be null, because"),
        ("data.val_size=0", "must be null, because"),
        ("data.test_size=0.2", "must be null, because"),
        ("data.folds=3", "must be null, because"),
        ("data.train_size=25", "a count from 2 (an image a class) to 17"),
        ("data.size=0", "a whole number of 1 or more, or a list of 2"),
        ("data.size=[8]", "a whole number of 1 or more, or a list of 2"),
        ("data.channels=2", "must be 1 or 3, or null"),
        ("data.skip_broken=1", "must be true or false"),
        ("+data.sizes=3", "did you mean `size`?"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder: Folder, override: str, words: str, one_line) -> None:
    root = folder(train__a=9, train__b=8, val__b=3, test__a=4)
    with pytest.raises(ConfigError) as caught:
        experiment(f"data.path={root}", override)
    assert caught.value.key == override.lstrip("+").partition("=")[0]
    assert words in str(caught.value)
    assert one_line(str(caught.value))


@pytest.mark.parametrize("path", ["null", "nowhere", "pets/a/0.png"])
def test_a_path_without_pictures_is_refused(folder: Folder, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(a=1, b=1).parent)
    with pytest.raises(ConfigError, match=rf"^data.path={path}: .*folder"):
        experiment(f"data.path={path}")


def test_a_relative_path_may_be_in_the_folder_of_data_sets(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(a=3, b=3)
    data = experiment("data.path=pets", f"data.root={root.parent}").data
    assert data.source.title == "pets"
    monkeypatch.chdir(root.parent)
    assert experiment("data.path=pets").data.source.folders.root == root


def test_a_path_with_all_kinds_of_letters_is_read(folder: Folder) -> None:
    root = folder(root="größe (1) [x]=y, z", a=3, b=3)
    quoted = str(root).replace("'", r"\'")
    assert experiment(f"data.path='{quoted}'").data.source.train_count == 5


def test_broken_files_are_listed_and_may_be_left_out(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(a=10, b=10)
    source = FolderSource(path=root, size=8)
    broken = [file.path for file in (source.train_files[0], source.train_files[-1], source.test_files[0])]
    (root / broken[0]).write_bytes(b"")
    (root / broken[1]).write_bytes((root / broken[1]).read_bytes()[:60])
    (root / broken[2]).write_text("no picture")
    with pytest.raises(DataError) as caught:
        source.read(root)
    message = str(caught.value)
    assert "3 of 20 pictures can't be read: " in message
    assert all(path in message for path in broken)
    assert "no picture in a known format" in message
    assert message.endswith("leave them out with data.skip_broken=true")
    assert "\n" not in message

    whole = {file.path: image for file, image in zip(source.train_files, _read(source, root), strict=True)}
    source = FolderSource(path=root, size=8, skip_broken=True)
    with caplog.at_level(logging.WARNING):
        train, test = source.read(root)
    assert "3 of 20 pictures can't be read" in caplog.text
    assert (len(train.images), len(test.images)) == (14, 3)
    kept = [file for file in source.train_files if file.path not in broken]
    assert train.labels.tolist() == [file.label for file in kept]
    assert all(torch.equal(whole[file.path], image) for file, image in zip(kept, train.images, strict=True))


def _read(source: FolderSource, root: Path) -> torch.Tensor:
    return read_pictures(root, [file.path for file in source.train_files], image_shape=(3, 8, 8)).images


def test_broken_validation_pictures_are_left_out_of_the_validation_set(folder: Folder) -> None:
    root = folder(train__a=5, train__b=5, val__a=3, val__b=3, test__a=1)
    (root / "val/a/1.png").write_bytes(b"")
    data = experiment(f"data.path={root}", "data.skip_broken=true").data
    data.setup()
    assert data.train_set.labels[data.val_indices].tolist() == [0, 0, 1, 1, 1]
    assert len(data.train_indices) == 10


def test_a_huge_picture_is_named(folder: Folder) -> None:
    root = folder(a=3, b=3)
    Image.new("1", (20_000, 10_000)).save(root / "a" / "huge.png")
    with pytest.raises(DataError, match=r"a/huge\.png \(too large, more than \d+ pixels\)"):
        FolderSource(path=root, size=8).read(root)


def test_images_that_need_more_memory_than_there_is_are_refused(folder: Folder) -> None:
    root = folder(a=3, b=3)
    with pytest.raises(DataError, match=r"take [\d,.]+ GB, and this machine has .* choose a smaller data.size"):
        FolderSource(path=root, size=1_000_000).read(root)


def test_the_fingerprint_depends_on_names_and_content_but_not_on_times(folder: Folder) -> None:
    root = folder(a=4, b=4)

    def fingerprint() -> str | None:
        source = FolderSource(path=root, size=8)
        source.read(root)
        return source.fingerprint

    first = fingerprint()
    (root / "a" / "0.png").touch()
    assert fingerprint() == first
    (root / "a" / "0.png").rename(root / "a" / "x.png")
    renamed = fingerprint()
    Image.new("L", (3, 3)).save(root / "a" / "x.png")
    assert len({first, renamed, fingerprint()}) == 3


def test_pictures_that_take_long_are_kept(folder, tmp_path, monkeypatch) -> None:
    root = folder(a=3, b=3)
    paths, shape = [f"{name}/{number}.png" for name in "ab" for number in range(3)], (3, 8, 8)
    (root / "b/2.png").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read_pictures(root, paths, image_shape=shape)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(picture_files, "_MIN_SECONDS_TO_CACHE", 0)
    first = read_pictures(root, paths, image_shape=shape)
    [kept] = (tmp_path / "cache").rglob("*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(picture_files, "_read_all", None)
        again = read_pictures(root, paths, image_shape=shape)
    assert torch.equal(again.images, first.images)
    assert (again.digests, again.broken) == (first.digests, first.broken)
    # A damaged file is read again, and other pictures are other files.
    kept.write_bytes(kept.read_bytes()[:-100])
    assert torch.equal(read_pictures(root, paths, image_shape=shape).images, first.images)
    Image.new("RGB", (9, 9), "red").save(root / "a/0.png")
    assert read_pictures(root, paths, image_shape=shape).images[0, 0].eq(255).all()
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2
    monkeypatch.setattr(picture_files, "_MAX_CACHE_BYTES", 1)
    read_pictures(root, paths, image_shape=(1, 8, 8))
    assert list((tmp_path / "cache").rglob("*.npz")) == []


def test_a_folder_is_a_data_set_like_others(folder: Folder, shrunk: Callable[..., DictConfig]) -> None:
    root = folder(a=20, b=20, **{"größe_$1": 20})
    data = Experiment.from_config(
        shrunk("data=folder", f"data.path={root}", "model=lenet", "data.size=16"), typed=[]
    ).data
    data.setup()
    assert data.source.class_names == ("a", "b", "größe_$1")
    assert sorted(data.train_counts) == [14, 14, 15]
