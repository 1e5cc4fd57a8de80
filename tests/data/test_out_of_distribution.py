"""Images of another data set are converted to the shape that a network takes."""

import numpy as np
import pytest
import torch
from PIL import Image

from digitlab.core.errors import DataError
from digitlab.data.out_of_distribution import as_shape, noise_images


def pictures(*shape):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("own", [(1, 28, 28), (3, 32, 32), (1, 16, 20)], ids=str)
@pytest.mark.parametrize("given", [(5, 1, 28, 28), (5, 3, 32, 32)], ids=str)
def test_any_images_are_converted_to_the_shape_and_stay_in_range(own, given):
    converted = as_shape(pictures(*given), own)
    assert converted.shape == (5, *own)
    assert 0 <= converted.min() <= converted.max() <= 1


def test_images_that_have_the_shape_keep_their_values():
    images = pictures(4, 3, 32, 32)
    torch.testing.assert_close(as_shape(images, (3, 32, 32)), images.float() / 255)


def test_colour_becomes_grey_as_in_pillow():
    images = pictures(3, 3, 32, 32)
    grey = as_shape(images, (1, 32, 32)) * 255
    for image, ours in zip(images, grey, strict=True):
        pillows = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert np.abs(ours[0].numpy() - pillows).max() <= 1


def test_scaling_down_averages_as_pillow_does():
    image = pictures(1, 1, 32, 32)
    ours = as_shape(image, (1, 20, 20))[0, 0] * 255
    pillows = np.array(Image.fromarray(image[0, 0].numpy()).resize((20, 20), Image.Resampling.BILINEAR))
    assert np.abs(ours.numpy() - pillows).max() <= 1


@pytest.mark.parametrize(("given", "own"), [((1, 2, 8, 8), (1, 8, 8)), ((1, 1, 8, 8), (4, 8, 8))])
def test_other_numbers_of_channels_are_refused(given, own):
    with pytest.raises(DataError, match="only 1 and 3 are supported"):
        as_shape(pictures(*given), own)


def test_noise_is_uniform_and_depends_on_the_generator():
    noise = noise_images(500, (1, 28, 28), torch.Generator().manual_seed(3))
    assert torch.equal(noise, noise_images(500, (1, 28, 28), torch.Generator().manual_seed(3)))
    assert float(noise.mean()) == pytest.approx(1 / 2, abs=0.01)
    assert float(noise.var()) == pytest.approx(1 / 12, abs=0.01)
