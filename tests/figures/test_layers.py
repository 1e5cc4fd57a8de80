"""The diagram of a network's layers: it contains all layers in the order in which the network calls them."""

import pytest
import torch
from torch import nn

from digitlab.figures.layers import layers_figure, layers_of
from digitlab.models import CNN, MLP, LeNet

SHAPE = (1, 28, 28)
NETWORKS = {
    "mlp": lambda: MLP(image_shape=SHAPE, classes=10, hidden=[30, 20], dropout=0.5),
    "lenet": lambda: LeNet(image_shape=SHAPE, classes=10),
    "cnn": lambda: CNN(image_shape=SHAPE, classes=10, width=4),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def test_the_layers_contain_all_parameters_and_end_with_the_logits(network):
    layers = layers_of(network, SHAPE)
    assert sum(layer.parameters for layer in layers) == sum(each.numel() for each in network.parameters())
    assert layers[-1].shape == (10,)
    assert {layer.name for layer in layers} == {n for n, each in network.named_modules() if not list(each.children())}


def test_layers_of_does_not_change_the_network(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layers_of(network.train(), SHAPE)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(each._forward_hooks for each in network.modules())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.output = nn.GRU(28, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, images):
        return self.output(self.rows(images[:, 0])[0][:, -1])


def test_recurrent_layers_are_omitted():
    assert [layer.name for layer in layers_of(Recurrent(), SHAPE)] == ["output"]


def test_the_diagram_has_a_bar_for_the_image_and_each_layer(network):
    layers = layers_of(network, SHAPE)
    figure = layers_figure(layers, image_shape=SHAPE, title="title")
    (axes,) = figure.axes
    assert len(axes.patches) == len(layers) + 1 + len(layers)  # bars, and an arrow between two
    texts = {text.get_text() for text in axes.texts}
    assert {layer.name for layer in layers} <= texts
    assert {layer.kind for layer in layers} <= texts
    assert "1 × 28 × 28" in texts
