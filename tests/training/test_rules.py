"""Update rules compared with the optimizers of solo runs: alone, stacked, and resumed from each other's state.

PyTorch's optimizers are the independent reference for all rules but Muon, whose reference is in ``test_muon``.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from digitlab.core.abilities import ABILITIES
from digitlab.optim.functional import RULES
from digitlab.optim.muon import Muon
from digitlab.optim.state import RuleState, init_state, to_optimizer_state

MEMBERS, UPDATES = 3, 50
TORCH = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "muon": Muon,
}
CASES = [
    ("sgd", {"lr": 0.1}),
    ("sgd", {"lr": 0.1, "weight_decay": 0.01}),
    ("sgd", {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}),
    ("sgd", {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.8, "nesterov": True}),
    ("adam", {"lr": 0.01}),
    ("adam", {"lr": 0.01, "weight_decay": 0.01, "betas": (0.8, 0.99), "eps": 1e-6}),
    ("adam", {"lr": 0.01, "betas": (0.0, 0.99)}),
    ("adamw", {"lr": 0.01, "weight_decay": 0.1}),
    ("adamw", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}),
    ("rmsprop", {"lr": 0.01}),
    ("rmsprop", {"lr": 0.01, "weight_decay": 0.01, "alpha": 0.9, "eps": 1e-6}),
    ("rmsprop", {"lr": 0.001, "weight_decay": 0.01, "momentum": 0.9}),
    ("adagrad", {"lr": 0.1}),
    ("adagrad", {"lr": 0.1, "weight_decay": 0.01, "eps": 1e-6}),
    ("muon", {"lr": 0.05, "momentum": 0.0}),
    ("muon", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    ("muon", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "normalize_filters": True}),
]
each_case = pytest.mark.parametrize(("rule", "options"), CASES)


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def gradients(net: nn.Module, update: int) -> list[Tensor]:
    """The gradients of the loss on a batch that depends only on the number of the update."""
    generator = torch.Generator().manual_seed(update)
    first = next(net.parameters())
    inputs = torch.randn(10, 6, generator=generator, dtype=torch.float64).to(first.dtype)
    labels = torch.randint(3, (10,), generator=generator)
    return list(torch.autograd.grad(nn.functional.cross_entropy(net(inputs), labels), list(net.parameters())))


def per_parameter(rule: str, net: nn.Module, options: dict) -> dict[str, list]:
    """The settings of each parameter: biases are not decayed, and Muon orthogonalises only the first weight."""
    names = [name for name, _ in net.named_parameters()]
    decay = options.get("weight_decay", 0.0)
    own = {"weight_decay": [decay if name.endswith("weight") else 0.0 for name in names]}
    if rule == "muon":
        alike = {"momentum": options["momentum"], "normalize_filters": options.get("normalize_filters", False)}
        own |= {name: [value] * len(names) for name, value in alike.items()}
        own["iterations"] = [5 if name == "0.weight" else 0 for name in names]
        own["lr_factor"] = [1.0 if name == "0.weight" else 0.5 for name in names]
    return own


def torch_optimizer(rule: str, net: nn.Module, **options) -> torch.optim.Optimizer:
    """An optimizer with one group for each parameter, in the order of the network."""
    own = per_parameter(rule, net, options)
    groups = [
        {"params": [parameter]} | {name: values[place] for name, values in own.items()}
        for place, parameter in enumerate(net.parameters())
    ]
    return TORCH[rule](groups, **{name: value for name, value in options.items() if name not in own})


def update_by_torch(optimizer: torch.optim.Optimizer, net: nn.Module, updates: range) -> None:
    for update in updates:
        for parameter, gradient in zip(net.parameters(), gradients(net, update), strict=True):
            parameter.grad = gradient
        optimizer.step()


def update_by_rule(rule: str, net: nn.Module, state: RuleState, updates: range, **options) -> None:
    for update in updates:
        found = gradients(net, update)
        with torch.no_grad():
            RULES[rule](list(net.parameters()), found, state, **(options | per_parameter(rule, net, options)))


def initial_state(rule: str, net: nn.Module, options: dict) -> RuleState:
    return init_state(rule, list(net.parameters()), momentum=options.get("momentum", 0.0))


def relative_difference(found: nn.Module, expected: nn.Module) -> float:
    """The largest difference between the parameters of two networks, relative to the largest entry of each tensor."""
    pairs = zip(found.parameters(), expected.parameters(), strict=True)
    return max(((f - e).abs().max() / e.abs().max()).item() for f, e in pairs)


def solo_run(rule: str, options: dict, *, seed: int = 0) -> nn.Module:
    net = network(seed)
    update_by_torch(torch_optimizer(rule, net, **options), net, range(UPDATES))
    return net


@pytest.mark.numerics
@each_case
def test_a_rule_equals_the_torch_optimizer(rule, options):
    net = network()
    update_by_rule(rule, net, initial_state(rule, net, options), range(UPDATES), **options)
    assert relative_difference(net, solo_run(rule, options)) <= 1e-12


@pytest.mark.sample(3)
@each_case
def test_hyper_parameters_may_be_scalar_tensors(rule, options):
    net = network()
    tensors = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else v for k, v in options.items()}
    update_by_rule(rule, net, initial_state(rule, net, tensors), range(UPDATES), **tensors)
    assert relative_difference(net, solo_run(rule, options)) <= 1e-12


@pytest.mark.numerics
def test_in_float32_the_first_updates_agree_to_rounding(as_exact_as):
    rates = {"lr": torch.tensor(0.1, dtype=torch.float64), "betas": (0.9, 0.999)}
    ours, theirs = network(dtype=torch.float32), network(dtype=torch.float32)
    exact = copy.deepcopy(theirs).double()
    update_by_rule("adam", ours, initial_state("adam", ours, rates), range(2), **rates)
    for net in (theirs, exact):
        update_by_torch(torch.optim.Adam(net.parameters(), lr=0.1), net, range(2))
    found, single, double = ([tensor.detach() for tensor in net.parameters()] for net in (ours, theirs, exact))
    as_exact_as([single], found, double)


FUSED = [case for case in CASES if case[0] in ("sgd", "adam", "adamw")]


@pytest.mark.parametrize(("rule", "options"), FUSED)
def test_fused_kernels_make_the_same_updates(rule, options, monkeypatch):
    nets, calls = [], []

    def counted(kernel):
        return lambda *arguments, **named: (calls.append(len(arguments[0])), kernel(*arguments, **named))

    for name in ("_fused_sgd_", "_fused_adam_", "_fused_adamw_"):
        monkeypatch.setattr(torch, name, counted(getattr(torch, name)))
    tensor = options | {"lr": torch.tensor(options["lr"], dtype=torch.float64)}
    for fused_rules in (False, True):
        monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], fused_rules=fused_rules))
        net = network(dtype=torch.float32)
        update_by_rule(rule, net, initial_state(rule, net, options), range(10), **tensor)
        nets.append(net)
        assert sum(calls) == (4 * 10 if fused_rules else 0)
    assert relative_difference(*reversed(nets)) <= 1e-5
    # One kernel for the weights and one for the biases, if only the weights decay.
    assert len(calls) == 10 * (2 if options.get("weight_decay") else 1)


@pytest.mark.parametrize("change", ["float64", "two members", "a tensor as a setting", "a number as the rate"])
def test_other_updates_do_not_use_fused_kernels(change, monkeypatch):
    monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], fused_rules=True))
    for name in ("_fused_sgd_", "_fused_adam_", "_fused_adamw_"):
        monkeypatch.delattr(torch, name)
    dtype = torch.float64 if change == "float64" else torch.float32
    shape = (2, 3) if change == "two members" else (3,)
    rate = torch.full(shape[:1] if change == "two members" else (), 0.1, dtype=torch.float64)
    momentum = torch.tensor(0.9, dtype=torch.float64) if change == "a tensor as a setting" else 0.9
    parameter = torch.ones(shape, dtype=dtype)
    RULES["sgd"](
        [parameter], [torch.ones(shape, dtype=dtype)], init_state("sgd", [parameter], momentum=0.9),
        lr=0.1 if change == "a number as the rate" else rate, weight_decay=[0.0], momentum=momentum,
    )  # fmt: skip
    assert parameter.flatten().tolist() == pytest.approx([0.9] * parameter.numel())


@each_case
def test_gradients_do_not_change(rule, options):
    net = network()
    found, state = gradients(net, 0), initial_state(rule, net, options)
    before = copy.deepcopy(found)
    with torch.no_grad():
        RULES[rule](list(net.parameters()), found, state, **(options | per_parameter(rule, net, options)))
    assert all(torch.equal(f, b) for f, b in zip(found, before, strict=True))


def member_values(value):
    """A third, two thirds and the whole of an option's value, one for each member."""
    if isinstance(value, bool):
        return [value] * MEMBERS
    if isinstance(value, tuple):
        return list(zip(*(member_values(part) for part in value), strict=True))
    return [value * (m + 1) / MEMBERS for m in range(MEMBERS)]


def stacked_option(values):
    if isinstance(values[0], bool):
        return values[0]
    if isinstance(values[0], tuple):
        return tuple(stacked_option(part) for part in zip(*values, strict=True))
    return torch.tensor(values, dtype=torch.float64)


def population_run(rule: str, members: list[dict]) -> tuple[list[nn.Module], RuleState]:
    """Update stacked members; return each member as a network, and the state."""
    nets = [network(seed) for seed in range(len(members))]
    options = {key: stacked_option([member[key] for member in members]) for key in members[0]}
    stacked = [torch.stack(tensors) for tensors in zip(*(n.parameters() for n in nets), strict=True)]
    stacked = [tensor.detach() for tensor in stacked]
    for net, own in zip(nets, zip(*(t.unbind() for t in stacked), strict=True), strict=True):
        for parameter, view in zip(net.parameters(), own, strict=True):
            parameter.data = view
    state = init_state(rule, stacked, momentum=options.get("momentum", 0.0))
    for update in range(UPDATES):
        each = [gradients(net, update) for net in nets]
        together = [torch.stack(tensors) for tensors in zip(*each, strict=True)]
        RULES[rule](stacked, together, state, **(options | per_parameter(rule, nets[0], options)))
    return nets, state


@pytest.mark.sample(3)
@pytest.mark.numerics
@each_case
def test_each_member_of_a_population_equals_a_solo_torch_run(rule, options):
    per_option = {key: member_values(value) for key, value in options.items()}
    members = [{key: values[m] for key, values in per_option.items()} for m in range(MEMBERS)]
    nets, _ = population_run(rule, members)
    for seed, (net, member) in enumerate(zip(nets, members, strict=True)):
        assert relative_difference(net, solo_run(rule, member, seed=seed)) <= 1e-12


@pytest.mark.parametrize("rule", ["sgd", "rmsprop", "muon"])
def test_members_with_and_without_momentum_and_decay_can_be_stacked(rule):
    members = [
        {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0},
        {"lr": 0.001, "momentum": 0.9, "weight_decay": 0.1},
    ]
    nets, _ = population_run(rule, members)
    for seed, (net, member) in enumerate(zip(nets, members, strict=True)):
        assert relative_difference(net, solo_run(rule, member, seed=seed)) <= 1e-12


@pytest.mark.sample(3)
@each_case
def test_torch_resumes_from_the_state_of_a_rule(rule, options):
    net = network()
    state = initial_state(rule, net, options)
    update_by_rule(rule, net, state, range(UPDATES // 2), **options)
    optimizer = torch_optimizer(rule, net, **options)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": to_optimizer_state(rule, state)})
    update_by_torch(optimizer, net, range(UPDATES // 2, UPDATES))
    assert relative_difference(net, solo_run(rule, options)) <= 1e-12


@pytest.mark.sample(3)
@each_case
def test_a_rule_resumes_from_the_state_of_torch(rule, options):
    net = network()
    optimizer = torch_optimizer(rule, net, **options)
    update_by_torch(optimizer, net, range(UPDATES // 2))
    state = init_state(rule, list(net.parameters()), momentum=options.get("momentum", 0.0))
    # As a population takes over the checkpoint of a solo run.
    for i, entry in optimizer.state_dict()["state"].items():
        for name, tensors in state.entries.items():
            tensors[i].copy_(entry[name])
        state.step.copy_(entry.get("step", state.step))
    update_by_rule(rule, net, state, range(UPDATES // 2, UPDATES), **options)
    assert relative_difference(net, solo_run(rule, options)) <= 1e-12


@pytest.mark.sample(3)
@each_case
def test_a_members_state_has_the_form_of_torchs(rule, options):
    _, state = population_run(rule, [options] * MEMBERS)
    net = network()
    optimizer = torch_optimizer(rule, net, **options)
    update_by_torch(optimizer, net, range(UPDATES))
    theirs = optimizer.state_dict()["state"]
    ours = to_optimizer_state(rule, state, member=0)
    assert {i: set(entry) for i, entry in ours.items()} == {i: set(entry) for i, entry in theirs.items()}
    for i, entry in theirs.items():
        for name, value in entry.items():
            torch.testing.assert_close(ours[i][name], value, rtol=1e-11, atol=1e-14)
