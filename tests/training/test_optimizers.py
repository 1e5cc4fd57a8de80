"""Optimizers equal PyTorch's of the same name, and weight decay acts on the weights that the settings select."""

import pytest
import torch
from pydantic import ValidationError

from digitlab.core.errors import ConfigError
from digitlab.models import CNN, MLP
from digitlab.optim.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop, _has_kernel

EACH = [
    (SGD(lr=0.1), torch.optim.SGD, {"lr": 0.1}),
    (SGD(lr=0.1, momentum=0.9, nesterov=True), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (Adam(lr=0.01, betas=[0.8, 0.99]), torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.99)}),
    (AdamW(lr=0.01), torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.0}),
    (RMSprop(lr=0.01, momentum=0.5, alpha=0.9), torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "alpha": 0.9}),
    (Adagrad(lr=0.01), torch.optim.Adagrad, {"lr": 0.01}),
]
DECAYING = [SGD, Adam, AdamW, RMSprop, Adagrad]


def mlp(**options):
    torch.manual_seed(0)
    return MLP(image_shape=(1, 4, 4), classes=3, hidden=[5, 6], **options).double()


def train_steps(network, optimizer, *, steps=1):
    for step in range(steps):
        images = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        network(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@pytest.mark.numerics
@pytest.mark.parametrize(("ours", "theirs", "options"), EACH, ids=repr)
def test_updates_equal_torchs(ours, theirs, options):
    network, twin = mlp(), mlp()
    expected = train_steps(twin, theirs(twin.parameters(), **options), steps=3)
    torch.testing.assert_close(train_steps(network, ours.build(network), steps=3), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("cls", DECAYING)
def test_weight_decay_acts_on_weights_and_never_on_biases_and_norms(cls):
    changed = changed_by_decay(cls, lambda: mlp(batch_norm=True))
    assert changed == {"hidden.0.weight", "hidden.3.weight", "output.weight"}


def changed_by_decay(cls, make, **options):
    """The names of the parameters whose values after training depend on weight decay."""
    one, other = make(), make()
    without = train_steps(one, cls(lr=0.01).build(one))
    decayed = train_steps(other, cls(lr=0.01, weight_decay=0.1, **options).build(other))
    return {name for name in without if not torch.equal(without[name], decayed[name])}


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD, torch.optim.SGD),
        (Adam, torch.optim.Adam),
        (AdamW, torch.optim.AdamW),
        (RMSprop, torch.optim.RMSprop),
        (Adagrad, torch.optim.Adagrad),
    ],
)
@pytest.mark.parametrize("layers", [None, ["hidden.0", "output"]], ids=["all", "some"])
def test_weight_decay_has_the_same_effect_as_torchs(ours, theirs, layers):
    network, twin = mlp(), mlp()
    chosen = ["hidden.0.weight", "output.weight"] + ([] if layers else ["hidden.2.weight"])
    decayed = [parameter for name, parameter in twin.named_parameters() if name in chosen]
    others = [parameter for name, parameter in twin.named_parameters() if name not in chosen]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    # The plainest of PyTorch's implementations: one parameter after the other.
    expected = train_steps(twin, theirs(groups, lr=0.01, foreach=False), steps=5)
    found = train_steps(network, ours(lr=0.01, weight_decay=0.3, decay_layers=layers).build(network), steps=5)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("supported", [True, False])
def test_adagrad_is_fused_only_where_torch_has_the_kernel(monkeypatch, supported):
    asked = []

    def has_kernel(operator, key):
        asked.append((operator, str(key)))
        return supported

    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", has_kernel)
    network = mlp()
    optimizer = Adagrad(lr=0.01).build(network)
    assert asked == [("aten::_fused_adagrad_", "CPU")]
    assert [group["fused"] for group in optimizer.param_groups] == [supported]
    train_steps(network, optimizer)


def test_the_kernel_that_is_asked_for_exists_on_the_cpu_and_an_unknown_one_does_not():
    network = mlp()
    assert Adagrad(lr=0.01).build(network).param_groups[0]["fused"]
    assert not _has_kernel("aten::_fused_adagrad_", torch.device("meta"))


@pytest.mark.parametrize(
    ("layers", "weights"),
    [
        (["output"], {"output.weight"}),
        (["hidden.*"], {"hidden.0.weight", "hidden.2.weight"}),
        (["hidden.0", "output"], {"hidden.0.weight", "output.weight"}),
        (None, {"hidden.0.weight", "hidden.2.weight", "output.weight"}),
    ],
)
def test_decay_layers_select_the_decayed_weights(layers, weights):
    assert changed_by_decay(SGD, mlp, decay_layers=layers) == weights


def test_each_parameter_is_in_one_group():
    network = CNN(image_shape=(1, 28, 28), classes=10)
    for weight_decay in (0.0, 0.1):
        optimizer = SGD(lr=0.1, weight_decay=weight_decay).build(network)
        taken = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(taken) == sorted(id(parameter) for parameter in network.parameters())


def test_a_pattern_that_matches_no_layer_is_refused():
    with pytest.raises(ConfigError, match=r"decay_layers=conv: must match a layer of hidden\.0, hidden\.2, output"):
        SGD(lr=0.1, weight_decay=0.1, decay_layers=["conv"]).build(mlp())


@pytest.mark.parametrize(
    ("cls", "bad"),
    [
        (SGD, {"lr": 0.0}),
        (SGD, {"lr": float("nan")}),
        (SGD, {"lr": 0.1, "momentum": 1.0}),
        (SGD, {"lr": 0.1, "weight_decay": -1.0}),
        (Adam, {"lr": 0.1, "betas": [0.9]}),
        (RMSprop, {"lr": 0.1, "eps": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(cls, bad):
    with pytest.raises(ValidationError):
        cls(**bad)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValidationError, match="nesterov"):
        SGD(lr=0.1, nesterov=True)
