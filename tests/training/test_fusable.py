"""Networks that a call of several updates would train in another way than the eager step are trained eagerly."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from digitlab.engine.aot_cache import CompilerError
from digitlab.engine.fusable import refuse_hooks, require_fusable
from digitlab.models import CNN, FastCNN, LeNet, TorchvisionNetwork

SHAPE = (1, 8, 8)
REASONS = {
    "PartlyFrozen": "some parameters of the network are frozen",
    "KeepsStatistics": "parts of the network stay in evaluation mode",
    "TwoRates": "the dropout layers of the network have different rates",
    "TwoNames": "draws random numbers besides those of nn.Dropout",
    "DropsInEvaluation": "draws random numbers besides those of nn.Dropout",
    "Functional": "draws random numbers besides those of nn.Dropout",
    "OtherOrder": "does not call each dropout layer once, in the order in which it lists them",
    "CalledTwice": "does not call each dropout layer once, in the order in which it lists them",
    "Transposed": "values that are not contiguous, or do not have one row for each image",
    "DropsWeights": "values that are not contiguous, or do not have one row for each image",
}


@pytest.fixture
def unfusable(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of this name, which a run may import."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("DIGITLAB_ALLOW", "unfusable")
    import unfusable

    return unfusable


@pytest.mark.parametrize("name", REASONS)
def test_a_network_that_a_call_cannot_imitate_is_refused(unfusable: Any, name: str) -> None:
    with pytest.raises(CompilerError, match=REASONS[name]):
        require_fusable(getattr(unfusable, name)(image_shape=SHAPE, classes=3), SHAPE)


@pytest.mark.parametrize(
    "make",
    [
        lambda shape: CNN(image_shape=shape, classes=3, width=2),
        lambda shape: LeNet(image_shape=shape, classes=3),
        lambda shape: FastCNN(image_shape=shape, classes=3, widths=[4, 8]),
        lambda shape: TorchvisionNetwork(image_shape=shape, classes=3, name="mobilenet_v3_small"),
    ],
)
def test_networks_of_digitlab_can_be_fused_and_do_not_change(make: Callable[[tuple[int, int, int]], nn.Module]) -> None:
    network = make((1, 32, 32))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    require_fusable(network, (1, 32, 32))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_the_check_does_not_change_the_state_of_the_random_generator(unfusable: Any) -> None:
    require_fusable(unfusable.Fusable(image_shape=SHAPE, classes=3), SHAPE)
    network = unfusable.Functional(image_shape=SHAPE, classes=3)
    state = torch.random.get_rng_state()
    with pytest.raises(CompilerError):
        require_fusable(network, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("register", "reason"),
    [
        (lambda network: network.register_forward_hook(print), "forward hooks"),
        (lambda network: network.register_forward_pre_hook(print), "forward hooks"),
        (lambda network: network.register_full_backward_hook(print), "watch the gradients"),
        (lambda network: network.register_full_backward_pre_hook(print), "watch the gradients"),
        (lambda network: network.weight.register_hook(print), "watch the gradients"),
        (lambda network: network.weight.register_post_accumulate_grad_hook(print), "watch the gradients"),
    ],
)
def test_hooks_are_refused(register: Callable[[nn.Module], Any], reason: str) -> None:
    network = nn.Linear(2, 2)
    refuse_hooks(network)
    handle = register(network)
    with pytest.raises(CompilerError, match=reason):
        refuse_hooks(network)
    handle.remove()
    refuse_hooks(network)


# Lightning warns of modules in evaluation mode.
@pytest.mark.filterwarnings("ignore:Found 1 module")
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["KeepsStatistics", "PartlyFrozen", "TwoRates", "OtherOrder", "CalledTwice"])
def test_such_a_network_trains_as_without_compiling(
    unfusable: Any, run: Any, uncompiled: list[int], same_bits: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    network = ("model=linear", f"model._target_=unfusable.{name}", "~model.init", "~model.init_scale")
    overrides = (*network, "trainer.max_epochs=1", "data.batch_size=20")
    eager = run(*overrides)
    with caplog.at_level(logging.WARNING):
        same_bits(run(*overrides, "compile=true"), eager)
    assert not uncompiled
    (message,) = caplog.messages
    assert message.startswith("compile: ")
    assert message.endswith(f"{REASONS[name]}; training without")
    if name == "KeepsStatistics":
        assert not eager.checkpoint()["state_dict"]["network.early.0.running_mean"].any()
