"""The figure of a data set: which images it shows, where, and in which colours."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from digitlab.figures.samples import first_of_each_class, sample_grid
from digitlab.figures.style import TEXT_COLOUR

NAMES = ["cat", "dog", "a long name of a class"]


def drawn(images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Draw the figure and read the PNG: uint8 (rows, columns, RGBA)."""
    file = io.BytesIO()
    sample_grid(images, labels, class_names=NAMES, title="title").savefig(file)
    return np.array(Image.open(file))


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(map(int, colour)) for colour in np.unique(picture.reshape(-1, 4), axis=0)}


def test_first_of_each_class_returns_indices_class_by_class() -> None:
    labels = torch.tensor([2, 0, 2, 2, 0, 1])
    assert first_of_each_class(labels, classes=3, count=2).tolist() == [1, 4, 5, 0, 2]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_image_is_drawn_in_the_row_of_its_class(channels: int) -> None:
    labels = torch.tensor([0, 1, 1, 2])
    images = torch.tensor([10, 60, 110, 160], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, channels, 8, 8)
    picture = drawn(images, labels)
    # The median ignores the few pixels of antialiased text that have the same grey.
    rows = {v: np.median(np.argwhere((picture == [v, v, v, 255]).all(-1)), axis=0) for v in (10, 60, 110, 160)}
    assert rows[60][0] == pytest.approx(rows[110][0], abs=2)
    assert rows[10][0] + 20 < rows[60][0] < rows[160][0] - 20
    assert rows[60][1] < rows[110][1]


def test_float_images_look_like_uint8_images() -> None:
    images = torch.arange(3 * 3 * 64).remainder(256).byte().view(3, 3, 8, 8)
    labels = torch.arange(3)
    assert np.array_equal(drawn(images, labels), drawn(images.float() / 255, labels))


def test_rgb_colours_are_preserved() -> None:
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    for each in range(3):
        images[each, each] = 255
    assert {(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)} <= colours(drawn(images, torch.arange(3)))


def test_the_background_is_white_and_the_text_has_enough_contrast() -> None:
    picture = drawn(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3))
    assert picture[0, 0].tolist() == picture[-1, -1].tolist() == [255] * 4
    text = tuple(int(TEXT_COLOUR[i : i + 2], 16) for i in (1, 3, 5))
    assert (*text, 255) in colours(picture)
    assert contrast(text, (255, 255, 255)) >= 4.5


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the contrast of two colours as defined in WCAG 2.1, from 1 to 21."""
    levels = []
    for colour in (one, other):
        linear = [v / 3294 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def test_no_name_is_cut_off() -> None:
    picture = drawn(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3))
    assert (picture[:, :3] == 255).all()
    assert (picture[:2] == 255).all()
