"""Deskewing removes the slant of figures and changes nothing else."""

import pytest
import torch
from torch import Tensor

from digitlab.data.augment import Affine
from digitlab.data.deskew import deskew, slants
from digitlab.data.sources import MnistSource


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return MnistSource().read(None)[1].images[:2000]


def leaning(columns_a_row: float) -> Tensor:
    """A soft bar through the centre of an image, uint8 (1, 1, 28, 28), that leans by so many columns a row."""
    axis = torch.arange(28) - 13.5
    inside = axis.abs() < 9
    bar = torch.exp(-((axis[None] - columns_a_row * axis[:, None]) ** 2) / 4) * inside[:, None]
    return (bar * 255).round().to(torch.uint8)[None, None]


def leans(images: Tensor) -> Tensor:
    return slants(images.float() / 255)[0]


def masses(images: Tensor) -> Tensor:
    return images.double().sum((1, 2, 3))


@pytest.mark.parametrize("slant", [-0.6, -0.2, 0.0, 0.3, 0.6])
def test_the_slant_of_a_bar_is_measured_and_removed(slant: float) -> None:
    bar = leaning(slant)
    assert leans(bar).item() == pytest.approx(slant, abs=0.01)
    assert leans(deskew(bar)).item() == pytest.approx(0, abs=0.01)
    # The tolerance is for the blur of the interpolation: a few grey values of 255.
    assert (deskew(bar).float() - leaning(0).float()).abs().mean() < 3


def test_digits_have_almost_no_slant_afterwards(digits: Tensor) -> None:
    before, after = leans(digits).abs(), leans(deskew(digits)).abs()
    assert before.mean() > 0.15
    assert after.mean() < 0.02
    assert after.max() < before.max()


def test_mass_and_centre_of_mass_do_not_change(digits: Tensor) -> None:
    upright = deskew(digits)
    assert (upright.shape, upright.dtype) == (digits.shape, torch.uint8)
    assert (masses(upright) / masses(digits)).sub(1).abs().max() < 0.1
    axis = torch.arange(28).double()
    for dimension in (2, 3):
        columns = [images.double().sum((1, 5 - dimension)) for images in (digits, upright)]
        centres = [(column * axis).sum(1) / column.sum(1) for column in columns]
        assert (centres[0] - centres[1]).abs().max() < 0.5


def test_each_image_is_deskewed_independently(digits: Tensor) -> None:
    together = deskew(digits[:1001])
    assert torch.equal(together[-1:], deskew(digits[1000:1001]))
    assert torch.equal(together[:3], deskew(digits[:3]))


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (1, 3, 9, 14), (0, 1, 5, 5)], ids=str)
def test_an_image_without_a_figure_does_not_change(shape: tuple[int, ...], value: int) -> None:
    images = torch.full(shape, value, dtype=torch.uint8)
    assert torch.equal(deskew(images), images)


def test_a_figure_of_a_single_row_does_not_change() -> None:
    images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    images[..., 14, 5:20] = 200
    assert torch.equal(deskew(images), images)


def test_deskewing_undoes_a_shear(digits: Tensor) -> None:
    sheared = Affine(degrees=0.0, scale=(1.0, 1.0), shear_degrees=15.0)(
        digits.float() / 255, torch.zeros(len(digits)), classes=10, generator=torch.Generator().manual_seed(0)
    )[0]
    again, once = (deskew(images) for images in ((sheared * 255).round().to(torch.uint8), digits))
    assert (again.float() - once.float()).abs().mean() < (sheared * 255 - digits.float()).abs().mean() / 2
