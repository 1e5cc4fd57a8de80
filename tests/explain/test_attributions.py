"""Attributions against independent computations, and against networks with random weights (Adebayo et al., 2018)."""

import copy
import statistics

import pytest
import torch
from scipy.stats import spearmanr

from digitlab.explain.attributions import grad_cam, integrated_gradients, methods_for, occlusion
from digitlab.explain.network import as_floats
from digitlab.explain.predictions import empty_colour

BLACK = torch.zeros(1)


@pytest.fixture
def digits(lenet):
    """Eight test images as floats, and the classes that the network predicts."""
    pixels = as_floats(lenet.data.test_set.images[:8])
    with torch.no_grad():
        return pixels, lenet.network(pixels).argmax(1)


def logits(network, pixels, targets):
    with torch.no_grad():
        return network(pixels).gather(1, targets[:, None])[:, 0]


@pytest.mark.extra
def test_integrated_gradients_sum_to_the_difference_from_the_baseline(lenet, digits):
    pixels, targets = digits
    maps = integrated_gradients(lenet.network, pixels, targets, baseline=BLACK)
    difference = logits(lenet.network, pixels, targets) - logits(lenet.network, torch.zeros_like(pixels), targets)
    assert maps.shape == (8, 28, 28)
    torch.testing.assert_close(maps.sum((1, 2)), difference, rtol=0.02, atol=0.05)


def test_occlusion_is_the_mean_fall_of_the_logit_over_the_squares_that_cover_a_pixel(lenet, digits):
    pixels, targets = digits[0][:2], digits[1][:2]
    maps = occlusion(lenet.network, pixels, targets, baseline=BLACK)
    whole = logits(lenet.network, pixels, targets)
    falls = []
    # Squares of 4 x 4 pixels at every second place: four of them cover the pixel (13, 14).
    for top in (10, 12):
        for left in (12, 14):
            covered = pixels.clone()
            covered[:, :, top : top + 4, left : left + 4] = 0
            falls.append(whole - logits(lenet.network, covered, targets))
    torch.testing.assert_close(maps[:, 13, 14], torch.stack(falls).mean(0), rtol=1e-4, atol=1e-4)


def test_grad_cam_weights_the_maps_of_the_last_convolution_by_their_mean_gradients(lenet, digits):
    pixels, targets = digits
    features = lenet.network.network.features
    maps = features[:4](lenet.network.normalise(pixels)).detach().requires_grad_()
    hidden = features[4:](maps).flatten(1)
    network = lenet.network.network
    out = network.output(network.activation(network.dense2(network.activation(network.dense1(hidden)))))
    (gradient,) = torch.autograd.grad(out.gather(1, targets[:, None]).sum(), maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(expected, (28, 28), mode="bilinear")[:, 0]
    assert lenet.last_convolution is features[3]
    found = grad_cam(lenet.network, pixels, targets, layer=features[3])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def correlation(first, second):
    """The mean rank correlation of the maps of two networks, image by image; maps that are constant count as 0."""
    values = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True) if a.std() > 0
              and b.std() > 0]  # fmt: skip
    return statistics.mean(values) if values else 0.0


# A method that answers the same for random weights explains the image, not the network.
@pytest.mark.extra
@pytest.mark.parametrize("name", ["integrated gradients", "Grad-CAM", "occlusion"])
def test_each_method_changes_when_the_weights_are_random(lenet, digits, name):
    pixels, targets = digits

    def maps(network):
        layer = network.network.features[3]
        return methods_for(network, layer=layer, baseline=empty_colour(lenet))[name](pixels, targets)

    trained = maps(lenet.network)
    assert correlation(trained, maps(copy.deepcopy(lenet.network))) == pytest.approx(1)
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        random = copy.deepcopy(lenet.network)
        for layer in random.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        found.append(abs(correlation(trained, maps(random))))
    assert statistics.mean(found) < LIMITS[name], found


# Measured: 0.05, 0.14 and 0.10.
LIMITS = {"integrated gradients": 0.2, "Grad-CAM": 0.4, "occlusion": 0.3}


def test_a_network_without_convolutions_has_no_grad_cam(mlp):
    assert mlp.last_convolution is None
    assert list(methods_for(mlp.network, layer=None, baseline=BLACK)) == ["integrated gradients", "occlusion"]
