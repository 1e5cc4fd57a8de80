"""The networks: shapes, number of parameters, padding, biases and the distribution of initial weights."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from digitlab.core.errors import ConfigError
from digitlab.models import CNN, MLP, FastCNN, LeNet, Linear

EACH = [(Linear, {}), (MLP, {"hidden": [16]}), (LeNet, {}), (CNN, {}), (FastCNN, {"widths": [8, 8]})]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

each_network = pytest.mark.parametrize(("cls", "options"), EACH, ids=[cls.__name__ for cls, _ in EACH])
each_shape = pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@each_network
@each_shape
@pytest.mark.parametrize("classes", [2, 10])
def test_the_output_is_float32_logits(cls, options, shape, classes):
    logits = cls(image_shape=shape, classes=classes, **options)(torch.rand(3, *shape))
    assert (logits.shape, logits.dtype) == ((3, classes), torch.float32)


@each_network
def test_images_may_have_any_size_and_channels(cls, options):
    shape = (2, 20, 37)
    assert cls(image_shape=shape, classes=5, **options)(torch.rand(3, *shape)).shape == (3, 5)


@each_network
@each_shape
def test_every_parameter_gets_a_gradient(cls, options, shape):
    torch.manual_seed(0)
    network = cls(image_shape=shape, classes=10, **options)
    network(torch.rand(16, *shape)).logsumexp(1).sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


@each_network
def test_in_evaluation_logits_do_not_depend_on_other_images(cls, options):
    network = cls(image_shape=(1, 28, 28), classes=10, **options).eval()
    images = torch.rand(6, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:2], network(images[:2]))


@pytest.mark.parametrize(
    ("cls", "shape", "options", "count"),
    [
        (Linear, (3, 32, 32), {}, 3072 * 10 + 10),
        (MLP, (1, 28, 28), {"hidden": [64, 64]}, 784 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10),
        # As in LeCun et al. (1998), but each map of the second stage is connected to all maps of the first.
        (LeNet, (1, 28, 28), {}, 61_706),
        (LeNet, (3, 32, 32), {}, 61_706 + 2 * 25 * 6),
    ],
)
def test_the_number_of_parameters_equals_a_hand_count(cls, shape, options, count):
    assert parameters(cls(image_shape=shape, classes=10, **options)) == count


@each_shape
def test_the_cnn_is_small_by_default(shape):
    assert parameters(CNN(image_shape=shape, classes=10)) < 100_000


def test_the_width_sets_the_channels_of_the_cnn():
    network = CNN(image_shape=(1, 28, 28), classes=10, width=4)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [4, 4, 8, 8, 16]


@each_shape
def test_lenet_has_5_x_5_maps_on_every_data_set(shape):
    maps = LeNet(image_shape=shape, classes=10).features(torch.rand(1, *shape))
    assert maps.shape == (1, 16, 5, 5)


def test_lenet_is_relu_and_average_pooling_between_the_layers_of_the_paper():
    network = LeNet(image_shape=(1, 28, 28), classes=10)
    first, second = (layer for layer in network.features if isinstance(layer, nn.Conv2d))
    images = torch.rand(2, 1, 28, 28)
    maps = F.avg_pool2d(F.conv2d(F.pad(images, [2] * 4), first.weight, first.bias).relu(), 2)
    maps = F.avg_pool2d(F.conv2d(maps, second.weight, second.bias).relu(), 2)
    # In training mode, dropout drops half of the 120 outputs with the global generator, and doubles the others.
    torch.manual_seed(0)
    hidden = F.dropout(network.dense1(maps.flatten(1)).relu(), 0.5)
    expected = network.output(network.dense2(hidden).relu())
    torch.manual_seed(0)
    torch.testing.assert_close(network(images), expected)
    assert (maps.shape[1], network.dense1.out_features, network.dense2.out_features) == (16, 120, 84)


@pytest.mark.parametrize(("cls", "shape"), [(LeNet, (1, 15, 15)), (CNN, (1, 3, 3))])
def test_images_too_small_for_a_network_are_refused(cls, shape):
    with pytest.raises(ConfigError, match="image_shape"):
        cls(image_shape=shape, classes=10)


@pytest.mark.parametrize(
    ("cls", "options", "norms"), [(CNN, {}, 5), (MLP, {"hidden": [5, 6], "batch_norm": True}, 2)], ids=["cnn", "mlp"]
)
def test_no_layer_before_batch_norm_has_a_bias(cls, options, norms):
    network = cls(image_shape=(1, 8, 8), classes=3, **options)
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear, *NORMS))]
    before = [layer for layer, after in pairwise(layers) if isinstance(after, NORMS)]
    assert len(before) == norms
    assert all(layer.bias is None for layer in before)
    assert network.output.bias is not None


def test_a_hidden_layer_is_dense_then_norm_then_activation_then_dropout():
    network = MLP(image_shape=(1, 4, 4), classes=3, hidden=[5], batch_norm=True, dropout=0.2)
    assert [type(layer) for layer in network.hidden] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]


def test_each_hidden_layer_can_have_its_own_activation():
    network = MLP(image_shape=(1, 4, 4), classes=3, hidden=[5, 6], activation=["tanh", "gelu"])
    assert [type(layer) for layer in network.hidden if not isinstance(layer, nn.Linear)] == [nn.Tanh, nn.GELU]


def test_the_number_of_activations_must_match_the_hidden_layers():
    with pytest.raises(ConfigError, match=r"2 for model\.hidden"):
        MLP(image_shape=(1, 4, 4), classes=3, hidden=[5, 6], activation=["tanh"])


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (MLP, {"hidden": []}),
        (MLP, {"hidden": [0]}),
        (MLP, {"hidden": [4.0]}),
        (MLP, {"hidden": [4], "dropout": 1.0}),
        (MLP, {"hidden": [4], "dropout": -0.1}),
        (MLP, {"hidden": [4], "batch_norm": 1}),
        (MLP, {"hidden": [4], "activation": "swish"}),
        (MLP, {"hidden": [4], "width": 3}),
        (MLP, {}),
        (Linear, {"init": "he2"}),
        (Linear, {"init_scale": 0.0}),
        (Linear, {"init_scale": math.inf}),
        (LeNet, {"dropout": 1.5}),
        (CNN, {"width": 0}),
        (FastCNN, {"widths": []}),
        (FastCNN, {"widths": [4], "patch_size": 0}),
        (FastCNN, {"widths": [4], "norm_momentum": 1.1}),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(cls, options):
    with pytest.raises(ValidationError, match=next(reversed(options), "hidden")):
        cls(image_shape=(1, 28, 28), classes=3, **options)


def dense(init, scale=1.0):
    torch.manual_seed(0)
    return MLP(image_shape=(1, 20, 20), classes=10, hidden=[300], init=init, init_scale=scale).hidden[0]


@pytest.mark.parametrize(
    ("init", "mean", "std"),
    [
        ("torch", 0, 1 / math.sqrt(3 * 400)),
        ("glorot", 0, math.sqrt(2 / (400 + 300))),
        ("he", 0, math.sqrt(2 / 400)),
        ("normal", 0, 1),
        ("uniform", 0.5, 1 / math.sqrt(12)),
        ("zeros", 0, 0),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_initial_weights_have_the_mean_and_deviation_of_the_scheme(init, mean, std, scale):
    weight = dense(init, scale).weight.detach()
    # For 120,000 draws, the mean is within 5 standard errors.
    assert float(weight.mean()) == pytest.approx(scale * mean, abs=5 * scale * std / math.sqrt(weight.numel()))
    assert float(weight.std()) == pytest.approx(scale * std, rel=0.02)


def test_a_convolution_is_initialised_with_its_own_fan_in():
    torch.manual_seed(0)
    weight = CNN(image_shape=(1, 28, 28), classes=10, width=32, init="he").features[3].weight.detach()
    assert weight.shape == (32, 32, 3, 3)
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)


def test_glorot_is_bounded():
    bound = math.sqrt(6 / (400 + 300))
    assert 0.99 * bound < float(dense("glorot").weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("init", ["glorot", "he", "normal", "uniform", "zeros"])
def test_schemes_set_biases_to_zero(init):
    assert not dense(init).bias.any()


def test_torch_keeps_the_initial_weights_of_the_layers():
    torch.manual_seed(0)
    expected = nn.Linear(400, 300)
    assert torch.equal(dense("torch").weight, expected.weight)
    assert torch.equal(dense("torch").bias, expected.bias)
