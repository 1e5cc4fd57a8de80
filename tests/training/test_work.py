"""The cost of a forward pass, and that measuring it changes nothing."""

import torch
from torch import nn

from digitlab.engine.cpu_tuning import forward_cost


def test_a_dense_layer_costs_two_operations_per_weight():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert forward_cost(network, (1, 2, 3), torch.zeros(())).flops == 2 * (6 * 5 + 5 * 3)


def test_the_largest_output_is_that_of_the_widest_layer():
    network = nn.Sequential(nn.Conv2d(1, 7, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(63, 5))
    assert forward_cost(network, (1, 8, 8), torch.zeros(())).largest_output == 7 * 6 * 6


def test_measuring_the_cost_does_not_change_the_network():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    network[1].eval()  # a user's network may keep a batch norm in evaluation mode
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    forward_cost(network, (1, 8, 8), torch.zeros(()))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert not any(module._forward_hooks for module in network.modules())
