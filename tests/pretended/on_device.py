"""The pretended device computes like the CPU, refuses what CUDA refuses, and counts where the host waits.

``test_on_device.py`` runs this module in a process of its own.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fixtures.pretended_device import DEVICE, watched


@pytest.mark.parametrize("rule", [torch.optim.SGD, torch.optim.Adam])
def test_training_gives_the_same_bits_as_on_the_cpu(rule: type[torch.optim.Optimizer]) -> None:
    images, labels = torch.randn(8, 1, 12, 12), torch.randint(10, (8,))
    ends = []
    for device in (torch.device("cpu"), DEVICE):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(400, 10)
        network = nn.Sequential(*layers).to(device)
        optimizer = rule(network.parameters(), lr=0.1, fused=True)  # type: ignore[call-arg]
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images.to(device)), labels.to(device)).backward()
            optimizer.step()
        ends.append([parameter.detach().cpu() for parameter in network.parameters()])
    assert all(map(torch.equal, *ends))


REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda here, there: here + there,
    "sum of another order": lambda here, there: there + here,
    "in place here": lambda here, there: here.add_(there),
    "in place there": lambda here, there: there.add_(here),
    "scalar in place there": lambda here, there: there[0, 0].add_(here[0, 0]),
    "product": lambda here, there: here @ there,
    "stack": lambda here, there: torch.stack([here, there]),
    "index of the device": lambda here, there: there[torch.zeros(1, dtype=torch.int64, device=DEVICE)],
    "selected by an index of the CPU": lambda here, there: here.index_select(0, torch.tensor([0])),
    "several at once": lambda here, there: torch._foreach_add_([here], [there]),
    "data": lambda here, there: setattr(here, "data", there),
}


@pytest.mark.parametrize("operation", REFUSED.values(), ids=REFUSED)
def test_operations_on_tensors_of_two_devices_are_refused(operation: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        operation(torch.ones(2, 2, device=DEVICE), torch.ones(2, 2))


def test_cpu_scalars_and_copies_are_allowed() -> None:
    here, there = torch.ones(2, 2, device=DEVICE), torch.zeros(2, 2)
    assert (here + torch.tensor(1.0)).tolist() == [[2, 2], [2, 2]]
    assert there.copy_(here).tolist() == [[1, 1], [1, 1]]
    assert torch.equal(here.copy_(there + 2).cpu(), there + 2)
    assert here[torch.tensor([0])].tolist() == [[3, 3]]


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda here: here.sum().item(),
    "tolist": lambda here: here.tolist(),
    "bool": lambda here: bool(here.any()),
    "cpu": lambda here: here.cpu(),
    "copy": lambda here: torch.empty(2).copy_(here),
    "nonzero": lambda here: here.nonzero(),
    "mask": lambda here: here[here > 0],
    "mask to write to": lambda here: here.__setitem__(here > 0, 2 * here),
    "unique": lambda here: here.unique(),
    "equal": lambda here: torch.equal(here, here),
    "where": lambda here: torch.where(here > 0),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_that_make_the_host_wait_are_counted(read: Callable[[Tensor], object]) -> None:
    here = torch.ones(2, device=DEVICE)
    with watched() as waits:
        read(here)
    assert any(name.startswith("read") for name in waits)


def test_work_that_does_not_make_the_host_wait_is_not_counted() -> None:
    here = torch.ones(3, device=DEVICE, requires_grad=True)
    with watched() as waits:
        (here * 2 + torch.arange(3, device=DEVICE)).relu().sum().backward()
        here.detach()[1:].add_(here.grad[1:])
    assert not waits


def test_copies_from_the_host_are_counted() -> None:
    with watched() as waits:
        torch.tensor([1.0], device=DEVICE)
        torch.ones(2).to(DEVICE)
    assert sum(waits.values()) == 2
    assert all(name.startswith("copy") for name in waits)


def test_setting_data_shares_memory() -> None:
    stacked = torch.zeros(2, 3, device=DEVICE)
    parameter = nn.Parameter(torch.ones(3, device=DEVICE))
    parameter.data = stacked[1]
    with torch.no_grad():
        parameter.add_(2)
    assert stacked.tolist() == [[0, 0, 0], [2, 2, 2]]
