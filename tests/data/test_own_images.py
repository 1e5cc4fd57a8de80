"""A user's picture of any size, mode and polarity is converted to the form of the data set's images."""

import contextlib
import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from digitlab.core.errors import DataError
from digitlab.data.own_images import as_data_set_image, read_own_image
from digitlab.data.source import ImageSet
from digitlab.data.sources import FashionMnistSource, MnistSource

MNIST = {"image_shape": (1, 28, 28), "margin_pixels": 4}
FASHION = {"image_shape": (1, 28, 28), "margin_pixels": 0}
CIFAR = {"image_shape": (3, 32, 32), "margin_pixels": None}


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return MnistSource().read(Path())[1]


def drawing(
    size: tuple[int, int] = (120, 90), mode: str = "L", paper: str = "black", ink: str = "white"
) -> Image.Image:
    """A seven, off the centre."""
    picture = Image.new(mode, size, paper)
    ImageDraw.Draw(picture).line([(30, 15), (60, 15), (40, 70)], fill=ink, width=6, joint="curve")
    return picture


def difference(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


def test_a_digit_of_mnist_does_not_change(digits: ImageSet) -> None:
    images = digits.images[:300]
    back = torch.stack([as_data_set_image(Image.fromarray(image[0].numpy()), **MNIST) for image in images])
    assert (back.dtype, back.shape) == (torch.uint8, images.shape)
    assert difference(back, images) < 0.1
    assert (back.int() - images.int()).abs().flatten(1).amax(1).le(8).float().mean() > 0.9


def test_a_picture_of_fashion_mnist_hardly_changes() -> None:
    root = Path(__file__).parents[2] / "data"
    if not root.is_dir():
        pytest.skip(f"needs Fashion-MNIST in {root}")
    images = FashionMnistSource().read(root)[1].images[:300]
    back = torch.stack([as_data_set_image(Image.fromarray(image[0].numpy()), **FASHION) for image in images])
    assert (back.int() - images.int()).abs().flatten(1).amax(1).le(8).float().mean() > 0.8


@pytest.mark.parametrize("facts", [MNIST, FASHION], ids=["mnist", "fashion_mnist"])
@pytest.mark.parametrize("scale", [1, 7, 0.5])
def test_a_figure_fills_the_frame_within_the_margin(facts, scale: float) -> None:
    picture = drawing()
    image = as_data_set_image(picture.resize([round(side * scale) for side in picture.size]), **facts)[0]
    rows, columns = image.amax(1).nonzero().flatten(), image.amax(0).nonzero().flatten()
    height, width = (int(ends[-1] - ends[0]) + 1 for ends in (rows, columns))
    assert height == 28 - 2 * facts["margin_pixels"]
    assert 0.4 < width / height < 0.8  # of the drawing 36 x 61
    assert image.max() == 255


def test_with_a_margin_the_centre_of_mass_is_centred(digits: ImageSet) -> None:
    image = as_data_set_image(drawing(), **MNIST)[0].double()
    position = torch.arange(28, dtype=torch.float64)
    for dim in (0, 1):
        centre = (image.sum(1 - dim) * position).sum() / image.sum()
        assert 13.4 <= centre <= 14.6  # as in MNIST, 13.5 to 14.5


@pytest.mark.parametrize("facts", [MNIST, FASHION], ids=["mnist", "fashion_mnist"])
@pytest.mark.parametrize(
    "other",
    [
        ImageOps.invert(drawing()),
        drawing(mode="RGB", paper="white", ink="black"),
        drawing(mode="RGBA", paper="#00000000", ink="#000000ff"),
        drawing(mode="RGBA", paper="#00000000", ink="#ffffffff"),
        drawing(mode="1"),
        Image.fromarray(np.asarray(drawing(), dtype=np.float32) / 255),
        drawing().convert("P"),
        drawing().convert("CMYK"),
        Image.fromarray(np.asarray(drawing()).astype(np.uint16) * 257),
        Image.fromarray(np.asarray(drawing()).astype(np.int32) * 257),
        ImageOps.expand(drawing(), border=4, fill="black"),
    ],
    ids=[
        "inverted",
        "colour",
        "dark on clear",
        "light on clear",
        "1 bit",
        "fractions",
        "palette",
        "CMYK",
        "16 bit",
        "32 bit",
        "far off",
    ],
)
def test_mode_polarity_and_position_do_not_matter(facts, other: Image.Image) -> None:
    assert torch.equal(as_data_set_image(other, **facts), as_data_set_image(drawing(), **facts))


def test_a_photograph_of_ink_on_uneven_paper_resembles_the_digit(digits: ImageSet) -> None:
    random = np.random.default_rng(0)
    likeness = []
    for image in digits.images[:20]:
        ink = np.zeros((300, 400))
        ink[40:250, 60:270] = (
            np.array(Image.fromarray(image[0].numpy()).resize((210, 210), Image.Resampling.BICUBIC)) / 255
        )
        paper = 185 + np.linspace(-30, 30, 400) + random.normal(0, 5, ink.shape)
        grey = (paper * (1 - ink) + 45 * ink).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(grey).convert("RGB").save(file, "JPEG", quality=80)
        back = as_data_set_image(Image.open(file), **MNIST)
        likeness.append(torch.corrcoef(torch.stack([back.flatten(), image.flatten()]).float())[0, 1])
    # The correlation is about 0.97 if the digit is in place, and 0.75 if it is off by one pixel.
    assert torch.stack(likeness).mean() > 0.85


def test_the_centre_of_a_photograph_is_scaled() -> None:
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    image = as_data_set_image(picture, **CIFAR)
    assert image.shape == (3, 32, 32)
    assert image[:, :, 2:-2].flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]
    grey = as_data_set_image(picture, image_shape=(1, 20, 60), margin_pixels=None)
    assert grey.shape == (1, 20, 60)
    assert grey[0, 0, 0] != grey[0, 0, 30]


def test_scaling_down_averages() -> None:
    checks = np.indices((320, 320)).sum(0) % 2 * 255
    image = as_data_set_image(Image.fromarray(checks.astype(np.uint8)), **CIFAR)
    assert image[:, 2:-2, 2:-2].float().sub(127.5).abs().max() < 8


@pytest.mark.parametrize("grey", [0, 120, 255])
def test_a_blank_picture_is_refused(grey: int) -> None:
    with pytest.raises(DataError, match="blank"):
        as_data_set_image(Image.new("L", (50, 40), grey), **MNIST)


def test_a_data_set_with_two_channels_is_refused() -> None:
    with pytest.raises(DataError, match="1 or 3 channels, and the data set has 2"):
        as_data_set_image(drawing(), image_shape=(2, 28, 28), margin_pixels=None)


def test_an_error_names_the_file_that_is_not_a_picture_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing().save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    (tmp_path / "text.png").write_text("no picture")
    drawing().save(tmp_path / "large.png")
    for name, reason in (("nowhere.png", "no such file"), ("text.png", "no picture"), ("cut.png", "can't be read")):
        with pytest.raises(DataError, match=f"{name}: {reason}"):
            read_own_image(tmp_path / name, **MNIST)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"large.png: too large"):
        read_own_image(tmp_path / "large.png", **MNIST)


def test_the_orientation_recorded_by_a_camera_is_applied(tmp_path: Path) -> None:
    upright = drawing(size=(90, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise to show it
    upright.rotate(90).save(tmp_path / "turned.png", exif=exif)
    turned = read_own_image(tmp_path / "turned.png", **MNIST)
    assert torch.equal(turned, as_data_set_image(upright, **MNIST))


def test_a_damaged_header_does_not_allocate_memory(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    drawing().save(buffer, "PNG")
    content = buffer.getvalue()
    length = content.index(b"IDAT") - 4
    (tmp_path / "seven.png").write_bytes(content[:length] + struct.pack(">I", 1 << 28) + content[length + 4 :])
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            read_own_image(tmp_path / "seven.png", **MNIST)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_picture_without_numbers_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20), np.float32)
    pixels[5:15, 9:12] = 1
    as_data_set_image(Image.fromarray(pixels), **MNIST)
    pixels[3, 3] = np.nan
    with pytest.raises(DataError, match="has pixels that are no numbers"):
        as_data_set_image(Image.fromarray(pixels), **MNIST)


@pytest.mark.parametrize("facts", [MNIST, CIFAR])
def test_a_pixel_format_that_cannot_be_converted_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="has the pixel format La, which can't be converted"):
        as_data_set_image(Image.new("La", (20, 20)), **facts)


@pytest.mark.parametrize("facts", [MNIST, CIFAR])
def test_a_picture_in_lab_colours_is_like_one_in_rgb(facts: dict[str, Any]) -> None:
    lightness = drawing()
    zero = Image.new("L", lightness.size, 128)  # the middle of the other two axes: no colour
    lab, grey = Image.merge("LAB", [lightness, zero, zero]), Image.merge("RGB", [lightness] * 3)
    assert difference(as_data_set_image(lab, **facts), as_data_set_image(grey, **facts)) < 3


def test_a_device_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digitlab.data.own_images._MAX_FILE_BYTES", 1000)
    with pytest.raises(DataError, match="/dev/zero: too large, more than 1,000 bytes"):
        read_own_image(Path("/dev/zero"), **MNIST)
