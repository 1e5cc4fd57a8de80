"""Networks of torchvision: a first layer for small images, the last layer of digitlab, and no import until needed."""

import subprocess
import sys

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

from digitlab.config.compose import build, compose, plain
from digitlab.models import TorchvisionNetwork

NAMES = ("resnet18", "resnet34", "mobilenet_v3_small")
SHAPES = ((1, 28, 28), (3, 32, 32))

each_name = pytest.mark.parametrize("name", NAMES)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.mark.sample(3)
@each_name
@each_shape
def test_images_of_every_data_set_become_logits(name, shape):
    network = TorchvisionNetwork(image_shape=shape, classes=10, name=name).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, *shape))
    assert (logits.shape, logits.dtype) == ((2, 10), torch.float32)


@pytest.mark.sample(2)
@each_name
def test_the_first_convolution_keeps_the_size_of_the_image(name):
    network = TorchvisionNetwork(image_shape=(3, 32, 32), classes=10, name=name).eval()
    sizes = {}

    def watch(layer, _, output):
        sizes[layer] = tuple(output.shape[1:])

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions[:2]:
        layer.register_forward_hook(watch)
    with torch.no_grad():
        network(torch.rand(1, 3, 32, 32))
    assert sizes[convolutions[0]][1:] == (32, 32)
    # Without max pooling, the first block of a residual network sees all pixels, too.
    assert sizes[convolutions[1]][1:] == ((16, 16) if name.startswith("mobilenet") else (32, 32))


@pytest.mark.sample(3)
@each_name
@each_shape
def test_all_but_first_and_last_layer_is_torchvisions(name, shape):
    ours = TorchvisionNetwork(image_shape=shape, classes=7, name=name)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=7)
    first = next(layer for layer in theirs.modules() if isinstance(layer, nn.Conv2d))
    replaced = first.weight.numel() - first.out_channels * shape[0] * 9
    expected = sum(parameter.numel() for parameter in theirs.parameters()) - replaced
    assert sum(parameter.numel() for parameter in ours.parameters()) == expected
    assert ours.output.out_features == 7


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_every_parameter_gets_a_gradient(name):
    network = TorchvisionNetwork(image_shape=(1, 28, 28), classes=10, name=name)
    network(torch.rand(4, 1, 28, 28)).logsumexp(1).sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


def test_activations_do_not_overwrite_the_output_of_the_layer_before():
    network = TorchvisionNetwork(image_shape=(1, 28, 28), classes=10, name="mobilenet_v3_small")
    assert not any(getattr(layer, "inplace", False) for layer in network.modules())


def test_the_configuration_builds_a_resnet18():
    config = plain(compose(["model=torchvision"]).model, "model")
    network = build(config, "model", nn.Module, image_shape=(1, 28, 28), classes=10)
    assert isinstance(network.features, torchvision.models.ResNet)
    assert [len(stage) for stage in (network.features.layer1, network.features.layer4)] == [2, 2]


def test_another_name_is_refused():
    with pytest.raises(ValidationError, match="name"):
        TorchvisionNetwork(image_shape=(1, 28, 28), classes=10, name="resnet50")


@pytest.mark.extra
def test_other_networks_do_not_import_torchvision():
    code = "import sys, digitlab.models; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
