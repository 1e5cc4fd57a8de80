"""The fast CNN: whitened patches, convolutions that start as the identity, and checkpoints that contain the filters."""

import pytest
import torch
from torch import nn

from digitlab.core.errors import ConfigError
from digitlab.models import FastCNN
from digitlab.models.fast_cnn import Whitening
from digitlab.models.layers import statistics_of

pytestmark = pytest.mark.numerics


def correlated(count=300, channels=3):
    """Images (N, C, 12, 12) with correlated neighbours and channels and a mean that is not 0."""
    noise = torch.randn(count, channels, 12, 12, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    return 0.3 * noise + smooth + noise.mean(1, keepdim=True) + 2


def test_whitened_patches_are_uncorrelated_with_variance_one():
    whitening, images = Whitening(channels=3, size=2), correlated()
    whitening.fit_to(images)
    outputs = whitening(images).detach().transpose(0, 1).flatten(1)
    assert outputs.shape == (24, 300 * 11 * 11)
    torch.testing.assert_close(outputs[:12].cov(), torch.eye(12), rtol=0, atol=0.02)
    torch.testing.assert_close(outputs[12:], -outputs[:12])


def test_whitening_does_not_amplify_directions_without_variance():
    images = correlated(channels=1)
    whitening = Whitening(channels=2, size=2)
    whitening.fit_to(torch.cat([images, images + 1e-6 * correlated(channels=1).flip(0)], 1))
    assert whitening.filters.abs().max() < 1 / 5e-4**0.5


def test_constant_images_do_not_change_the_filters():
    whitening = Whitening(channels=1, size=2)
    before = whitening.filters.clone()
    whitening.fit_to(torch.ones(10, 1, 6, 6))
    assert torch.equal(whitening.filters, before)


def test_convolutions_pass_channels_on_unchanged_at_first():
    torch.manual_seed(0)
    network = FastCNN(image_shape=(1, 28, 28), classes=10, widths=[6, 12])
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [(8, 6), (6, 6), (6, 12), (12, 12)]
    for layer in convolutions:
        maps = torch.rand(2, layer.in_channels, 5, 5)
        kept = min(layer.in_channels, layer.out_channels)
        torch.testing.assert_close(layer(maps)[:, :kept], maps[:, :kept])
        # Filters without an input channel of their own are random.
        assert layer.weight[kept:].abs().amin((1, 2, 3)).gt(0).all()


def test_the_filters_are_buffers_in_the_state_dict():
    network = FastCNN(image_shape=(1, 28, 28), classes=10, widths=[4])
    assert "whitening.filters" in network.state_dict()
    assert {name for name, _ in network.named_parameters() if "whitening" in name} == {"whitening.bias"}


@pytest.mark.parametrize(
    ("sides", "options"), [((8, 32), {}), ((4, 4), {"widths": [1, 1]}), ((9, 9), {"patch_size": 3})]
)
def test_images_too_small_for_the_blocks_are_refused(sides, options):
    with pytest.raises(ConfigError, match="widths"):
        FastCNN(image_shape=(1, *sides), classes=3, **({"widths": [1, 1, 1]} | options))


def test_its_statistics_are_those_of_the_norms_and_no_constants() -> None:
    network = FastCNN(image_shape=(1, 28, 28), classes=10, widths=[4])
    before = [buffer.clone() for buffer in statistics_of(network)]
    network.train()(torch.randn(6, 1, 28, 28))
    # Two norms with mean and variance each. Training changes all of them, and no other floating-point buffer.
    assert [torch.equal(*pair) for pair in zip(before, statistics_of(network), strict=True)] == [False] * 4
    others = [b for b in network.buffers() if b.is_floating_point() and all(b is not s for s in statistics_of(network))]
    assert len(others) == 3
