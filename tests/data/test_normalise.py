"""Normalisation by one multiply-add, compared with the plain formula."""

import pytest
import torch

from digitlab.data.normalise import Normalise

MEAN, STD = [0.1307, 0.2, 1 / 3], [0.3081, 1 / 7, 0.5]


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_normalised_up_to_the_rounding_of_the_dtype(dtype):
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (MEAN, STD))
    expected = (images.double() / 255 - mean) / std
    normalise = Normalise(image_shape=(3, 4, 4), mean=MEAN, std=STD).to(dtype)
    for pixels in (images, images.to(dtype) / 255):
        found = normalise(pixels)
        assert found.dtype == dtype
        # The result is a product and a sum of rounded numbers, none of which is larger than the largest value here.
        assert (found.double() - expected).abs().max() <= 4 * torch.finfo(dtype).eps * expected.abs().max()
