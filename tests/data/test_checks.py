"""Data sets that cannot be what was intended are refused or reported in one line; real data sets raise no alarm."""

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from digitlab.core.errors import DataError
from digitlab.data.checks import check_data_set, wrong_label
from digitlab.data.module import ImageData
from digitlab.data.source import ImageSet
from digitlab.data.sources import Cifar10Source, FashionMnistSource, IdxSource, MnistSource

NAMES = ("a", "b", "c")


def pictures(count: int = 60, shape: tuple[int, int, int] = (3, 12, 16), *, seed: int = 0) -> Tensor:
    """Smooth random pictures, uint8 (N, C, H, W), whose channels differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, shape[0], 3, 3, generator=generator)
    smooth = F.interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=True)
    brightness = torch.linspace(0.3, 1, shape[0]).view(-1, 1, 1)
    return (255 * smooth * brightness).round().to(torch.uint8)


def labels(count: int = 60, *, classes: int = 3, first: int = 0) -> Tensor:
    return torch.arange(count) % classes + first


def problems(caplog, train: ImageSet, test: ImageSet | None = None, *, names=NAMES) -> list[str]:
    """The warnings about a data set; each is one line that starts with its title."""
    test = ImageSet(pictures(30, tuple(train.images.shape[1:]), seed=1), labels(30)) if test is None else test
    with caplog.at_level(logging.WARNING, logger="digitlab"):
        check_data_set(train, test, title="Own", class_names=names, image_shape=tuple(train.images.shape[1:]))
    messages = [record.getMessage() for record in caplog.records]
    assert all(message.startswith("Own: ") and "\n" not in message for message in messages)
    return messages


@pytest.mark.parametrize("shape", [(1, 12, 16), (3, 12, 16), (3, 16, 16), (1, 4, 4), (3, 4, 5)], ids=str)
def test_pictures_with_all_classes_raise_no_alarm(caplog, shape):
    assert problems(caplog, ImageSet(pictures(shape=shape), labels())) == []


def test_noise_raises_no_alarm(caplog):
    noise = torch.randint(256, (60, 3, 12, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert problems(caplog, ImageSet(noise, labels())) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize("source", [MnistSource, FashionMnistSource, Cifar10Source])
def test_the_three_data_sets_raise_no_alarm(caplog, request, source):
    root = Path() if source is MnistSource else request.getfixturevalue("data_root")
    train, test = source().read(root)
    names, shape = source.class_names, source.image_shape
    with caplog.at_level(logging.WARNING, logger="digitlab"):
        check_data_set(train, test, title="known", class_names=names, image_shape=shape)
    assert caplog.records == []


def test_a_class_that_only_the_test_set_has_is_refused():
    train = ImageSet(pictures(), labels(classes=2))
    with pytest.raises(DataError, match=r"Own: the test set has images of class c, but the training set has none; add"):
        check_data_set(train, ImageSet(pictures(9), labels(9)), title="Own", class_names=NAMES, image_shape=(3, 12, 16))


def test_a_class_that_only_the_training_set_has_is_allowed(caplog):
    test = ImageSet(pictures(30), labels(30, classes=2))
    assert problems(caplog, ImageSet(pictures(), labels()), test) == []


def test_a_class_without_any_image_is_reported(caplog):
    test = ImageSet(pictures(30), labels(30, classes=2))
    (message,) = problems(caplog, ImageSet(pictures(), labels(classes=2)), test)
    assert "no image of class c" in message


def test_labels_that_start_at_1_are_reported_where_there_is_a_name_for_the_last(caplog):
    test = ImageSet(pictures(30), labels(30, first=1))
    (message,) = problems(caplog, ImageSet(pictures(), labels(first=1)), test, names=("none", "a", "b", "c"))
    assert "no image has label 0 (none); if the labels start at 1, subtract 1" in message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (labels(first=1), "label 3, but there are 3 classes, 0 … 2; the labels start at 1, so subtract 1 from each"),
        (labels(classes=5), "label 4, but there are 3 classes, 0 … 2; correct the labels"),
        (labels(first=-1), "label -1, but there are 3 classes"),
    ],
)
def test_labels_out_of_range_are_refused_with_a_remedy(wrong, message):
    assert message in wrong_label(wrong, 3)
    with pytest.raises(DataError, match="Own: training labels: label"):
        check_data_set(
            ImageSet(pictures(), wrong),
            ImageSet(pictures(9), labels(9)),
            title="Own",
            class_names=NAMES,
            image_shape=(3, 12, 16),
        )


def test_labels_in_range_have_no_problem():
    assert wrong_label(labels(), 3) is None
    assert wrong_label(labels(0), 3) is None


def test_equal_training_images_are_refused():
    train = ImageSet(pictures(1).repeat(60, 1, 1, 1), labels())
    with pytest.raises(DataError, match="all training images are equal"):
        check_data_set(train, ImageSet(pictures(9), labels(9)), title="Own", class_names=NAMES, image_shape=(3, 12, 16))


def test_equal_test_images_are_reported(caplog):
    test = ImageSet(pictures(1).repeat(30, 1, 1, 1), labels(30))
    assert any("all test images are equal" in each for each in problems(caplog, ImageSet(pictures(), labels()), test))


def test_blank_images_are_reported_and_one_among_many_is_not(caplog):
    images = pictures(200)
    images[7] = 0
    assert problems(caplog, ImageSet(images, labels(200))) == []
    images[:20] = 9
    (message,) = problems(caplog, ImageSet(images, labels(200)))
    assert "20 of 200 training images looked at have one value in all pixels" in message


def test_pixels_between_0_and_1_stored_as_whole_numbers_are_reported(caplog):
    (message,) = problems(caplog, ImageSet((pictures() > 100).to(torch.uint8), labels()))
    assert "the largest pixel of the training images is 1 of 255" in message


def test_channels_last_are_reported_by_shape(caplog):
    images = pictures(shape=(3, 12, 12)).permute(0, 2, 3, 1).contiguous()
    (message,) = problems(caplog, ImageSet(images, labels()))
    assert "12 channels and are 3 pixels wide" in message
    assert "(N, C, H, W)" in message


def test_channels_last_under_a_header_of_channels_first_are_reported_by_content(caplog):
    images = pictures().permute(0, 2, 3, 1).reshape(60, 3, 12, 16)
    (message,) = problems(caplog, ImageSet(images, labels()))
    assert "look like (N, H, W, C)" in message


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_and_columns_exchanged_in_the_header_are_reported(caplog, channels):
    images = pictures(shape=(channels, 12, 16)).reshape(60, channels, 16, 12)
    (message,) = problems(caplog, ImageSet(images, labels()))
    assert "look like images of 12 rows and 16 columns, but the header says 16 rows" in message


@pytest.mark.parametrize(
    ("images", "own_labels", "words"),
    [
        (pictures().float(), labels(), "training images are float32 .* must be uint8"),
        (pictures(shape=(3, 16, 12)), labels(), r"training images are uint8 \(60, 3, 16, 12\)"),
        (pictures(), labels(59), "60 images and labels"),
    ],
)
def test_tensors_that_a_source_may_not_return_are_refused(images, own_labels, words):
    with pytest.raises(DataError, match=words):
        check_data_set(
            ImageSet(images, own_labels),
            ImageSet(pictures(9), labels(9)),
            title="Own",
            class_names=NAMES,
            image_shape=(3, 12, 16),
        )


def idx(values: Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4) for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.to(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(("train_size", "alarms"), [(None, 0), (3, 0)])
def test_a_run_checks_its_data_and_a_small_part_of_it_raises_no_alarm(caplog, tmp_path, train_size, alarms):
    with caplog.at_level(logging.WARNING, logger="digitlab"):
        data_of(tmp_path, labels(), train_size).setup()
    assert len(caplog.records) == alarms


def test_a_run_refuses_a_class_without_training_images(tmp_path):
    with pytest.raises(DataError, match="test set has images of class c"):
        data_of(tmp_path, labels(classes=2), None).setup()


def data_of(folder: Path, train_labels: Tensor, train_size: int | None) -> ImageData:
    """The data module over four IDX files in ``folder``."""
    sets = {
        "train_images": pictures(),
        "train_labels": train_labels,
        "test_images": pictures(30, seed=1),
        "test_labels": labels(30),
    }
    for name, values in sets.items():
        (folder / name).write_bytes(idx(values))
    source = IdxSource(name="own", class_names=list(NAMES), **{name: str(folder / name) for name in sets})
    return ImageData(
        source=source,
        root=str(folder),
        batch_size=8,
        val_size=6,
        train_size=train_size,
        split_seed=0,
        normalize="standard",
    )
