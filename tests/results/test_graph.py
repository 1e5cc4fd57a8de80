"""The graph of a network has a node for each operation on the images, connected as the tensors flow."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from digitlab.results.graph import network_graph


class Residual(nn.Module):
    """Two ways from the first layer to the sum."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.block = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5))
        self.output = nn.Linear(3 * 16, 2)

    def forward(self, images):
        first = self.first(images)
        return self.output(torch.flatten(F.relu(first + self.block(first)), 1))


def shapes(graph):
    return {
        node.name: [[dim.size for dim in shape.dim] for shape in node.attr["_output_shapes"].list.shape]
        for node in graph.node
    }


def test_the_edges_follow_the_tensors():
    graph = network_graph(Residual(), (1, 4, 4))
    inputs = {node.name.rpartition("_")[0] or node.name: list(node.input) for node in graph.node}
    by_kind = {node.name.rpartition("_")[0]: node.name for node in graph.node}
    assert inputs["images"] == []
    assert inputs["Residual/first/convolution"] == ["images"]
    first, relu = by_kind["Residual/first/convolution"], by_kind["Residual/block/1/relu"]
    assert inputs["Residual/add"] == [first, relu]
    assert inputs["output"] == [by_kind["Residual/output/addmm"]]


def test_nodes_have_the_shapes_of_their_outputs():
    found = shapes(network_graph(Residual(), (1, 4, 4)))
    assert found["images"] == [[1, 1, 4, 4]]
    assert found["output"] == [[1, 2]]
    assert [[1, 3, 4, 4]] in found.values()


def test_the_network_and_the_random_numbers_stay_as_they_were():
    network = Residual().train()
    network.block[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    network_graph(network, (1, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert [layer.training for layer in network.modules()] == [True, True, True, False, True, True, True]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_a_network_that_reads_values_has_no_graph():
    class Reading(nn.Module):
        def forward(self, images):
            return images if images.sum().item() > 0 else -images

    with pytest.raises(RuntimeError):
        network_graph(Reading(), (1, 4, 4))
