"""Muon: orthogonal updates for filters and matrices, gradient descent for the rest, compared with references."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from digitlab.core import abilities
from digitlab.core.abilities import DeviceAbilities
from digitlab.core.errors import ConfigError
from digitlab.models import CNN, MLP, FastCNN, Linear
from digitlab.optim.muon import orthogonalised
from digitlab.optim.optimizers import Muon

pytestmark = pytest.mark.numerics


def matrix_with_spread_singular_values(rows, columns):
    """A matrix whose singular values go from 1 down to 0.01, with its left and right singular vectors."""
    random = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    values = torch.logspace(0, -2, min(rows, columns), dtype=torch.float64)
    return left @ values.diag() @ right, left, right


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (16, 16)], ids=str)
@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape, size):
    matrix, left, right = matrix_with_spread_singular_values(*shape)
    update = left.mT @ orthogonalised(size * matrix, iterations=8) @ right.mT
    values = update.diagonal()
    assert 0.65 < values.min() <= values.max() < 1.25
    torch.testing.assert_close(update, values.diag(), rtol=0, atol=1e-6)


def test_each_iteration_raises_the_smallest_singular_value():
    matrix, left, right = matrix_with_spread_singular_values(16, 40)
    least = [
        (left.mT @ orthogonalised(matrix, iterations=iterations) @ right.mT).diagonal().min()
        for iterations in range(1, 5)
    ]
    assert least == sorted(least)


def test_a_gradient_of_zeros_is_no_update():
    assert torch.equal(orthogonalised(torch.zeros(3, 5), iterations=5), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)], ids=str)
def test_stacked_matrices_are_orthogonalised_independently(shape, as_exact_as):
    sizes = torch.tensor([1e-3, 1, 1e3]).view(3, 1, 1)
    several = sizes * torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    exact = [orthogonalised(matrix, iterations=5) for matrix in several.double()]
    together = orthogonalised(several.double(), iterations=5)
    torch.testing.assert_close(together, torch.stack(exact), rtol=0, atol=1e-12)
    columns = [torch.randperm(shape[1], generator=torch.Generator().manual_seed(order)) for order in range(4)]
    each = [
        [orthogonalised(matrix[:, order], iterations=5)[:, order.argsort()] for matrix in several] for order in columns
    ]
    as_exact_as(each, list(orthogonalised(several, iterations=5)), exact)


def train_steps(network, optimizer, *, steps=3):
    for step in range(steps):
        images = torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        network(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def mlp():
    torch.manual_seed(0)
    return MLP(image_shape=(1, 4, 4), classes=3, hidden=[24, 6])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_matrices_are_updated_as_by_torch_optim_muon(weight_decay):
    network, twin = mlp(), mlp()
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": weight_decay}
    learnt = train_steps(network, Muon(**settings, sgd_lr=1e-9, iterations=5).build(network))
    hidden = [layer.weight for layer in twin.hidden if isinstance(layer, nn.Linear)]
    expected = train_steps(twin, torch.optim.Muon(hidden, **settings, ns_steps=5))
    for name in ("hidden.0.weight", "hidden.2.weight"):
        # PyTorch's Muon computes in bfloat16.
        torch.testing.assert_close(learnt[name], expected[name], rtol=0, atol=0.01)
        assert (learnt[name] - mlp().get_parameter(name)).abs().max() > 0.03


def newton_schulz(matrix, iterations):
    """Jordan et al. (2024): X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X, from the matrix over its Frobenius norm."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (np.sqrt((matrix**2).sum()) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


class ReferenceMuon:
    """Muon for one weight in NumPy, float64, as the paper writes it; filters are flattened to rows."""

    def __init__(self, weight, *, lr, momentum, weight_decay, iterations, normalize_filters):
        self.weight, self.buffer = weight.copy(), np.zeros_like(weight)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.iterations, self.normalize_filters = iterations, normalize_filters

    def step(self, gradient):
        self.buffer = self.momentum * self.buffer + gradient
        looked_ahead = gradient + self.momentum * self.buffer
        matrix = looked_ahead.reshape(len(looked_ahead), -1)
        rows, columns = matrix.shape
        update = newton_schulz(matrix, self.iterations) * max(1.0, rows / columns) ** 0.5
        if self.normalize_filters:
            norms = np.sqrt((self.weight.reshape(rows, -1) ** 2).sum(1))
            self.weight = self.weight / np.sqrt((norms**2).mean())
        self.weight = (1 - self.lr * self.weight_decay) * self.weight - self.lr * update.reshape(self.weight.shape)


class ReferenceDescent:
    """Gradient descent with Nesterov's momentum (Sutskever et al., 2013) and coupled weight decay, for one tensor."""

    def __init__(self, weight, *, lr, momentum, weight_decay):
        self.weight, self.buffer = weight.copy(), np.zeros_like(weight)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def step(self, gradient):
        gradient = gradient + self.weight_decay * self.weight
        self.buffer = self.momentum * self.buffer + gradient
        self.weight = self.weight - self.lr * (gradient + self.momentum * self.buffer)


@pytest.mark.parametrize("normalize_filters", [False, True])
@pytest.mark.parametrize("iterations", [1, 5])
def test_updates_are_those_of_a_reference_in_numpy(normalize_filters, iterations):
    torch.manual_seed(0)
    # Filters of a wide and a tall matrix (6 x 9, 24 x 6), and layers of each kind of group.
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(), nn.Linear(24, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    muon_settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.2}
    optimizer = Muon(
        **muon_settings,
        iterations=iterations,
        normalize_filters=normalize_filters,
        sgd_layers=["4"],
        sgd_lr=0.1,
        sgd_momentum=0.8,
        sgd_weight_decay=0.3,
        bias_lr=0.02,
    ).build(network)
    references = {}
    for name, parameter in network.named_parameters():
        weight = parameter.detach().numpy()
        if name in ("0.weight", "2.weight"):
            references[name] = ReferenceMuon(
                weight, **muon_settings, iterations=iterations, normalize_filters=normalize_filters
            )
        elif name == "4.weight":
            references[name] = ReferenceDescent(weight, lr=0.1, momentum=0.8, weight_decay=0.3)
        else:
            references[name] = ReferenceDescent(weight, lr=0.02, momentum=0.8, weight_decay=0.0)
    for step in range(4):
        images = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        network(images).square().mean().backward()
        for name, parameter in network.named_parameters():
            references[name].step(parameter.grad.numpy())
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in network.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), references[name].weight, rtol=1e-9, atol=1e-12)


@pytest.fixture
def fast_bfloat16(monkeypatch):
    """The CPU counts as a device whose products are faster in bfloat16, as CUDA devices do."""
    monkeypatch.setitem(abilities.ABILITIES, "cpu", DeviceAbilities(fast_bfloat16=True))


@pytest.fixture
def matmul_precision():
    """Sets how exact products of float32 are, as ``trainer.precision`` does on CUDA, until the test ends."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("dtype", "products", "least", "most"),
    [
        # trainer.precision=64
        (torch.float64, "high", 0, 1e-12),
        # trainer.precision=32-true
        (torch.float32, "highest", 1e-9, 1e-5),
        # trainer.precision=32 and bf16: between the rounding of float32 and a few times that of bfloat16 (2⁻⁸).
        (torch.float32, "high", 1e-3, 0.1),
    ],
    ids=["64", "32-true", "32"],
)
def test_products_have_the_precision_of_the_run(fast_bfloat16, matmul_precision, dtype, products, least, most):
    matmul_precision(products)
    # Of one size in all directions, so that the iteration does not blow up the rounding.
    matrix = torch.linalg.qr(torch.randn(24, 16, dtype=torch.float64)).Q
    expected = torch.from_numpy(newton_schulz(matrix.mT.numpy(), 5)).mT
    found = orthogonalised(matrix.to(dtype), iterations=5)
    assert found.dtype == dtype
    assert least <= (found.double() - expected).abs().max() <= most


@pytest.mark.parametrize("bias_lr", [None, 0.3])
def test_other_parameters_are_updated_as_by_torch_optim_sgd(bias_lr):
    network, twin = mlp(), mlp()
    ours = Muon(
        lr=1e-9,
        sgd_layers=["output", "hidden.*"],
        sgd_lr=0.1,
        bias_lr=bias_lr,
        sgd_momentum=0.8,
        sgd_weight_decay=0.1,
    )
    weights = [parameter for parameter in twin.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in twin.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": bias_lr or 0.1}]
    expected = train_steps(twin, torch.optim.SGD(groups, lr=0.1, momentum=0.8, nesterov=True))
    torch.testing.assert_close(train_steps(network, ours.build(network)), expected)


def test_a_schedule_scales_all_learning_rates():
    network, twin = mlp(), mlp()
    halved = Muon(lr=0.1, sgd_lr=0.3, bias_lr=0.7).build(network)
    for group in halved.param_groups:
        group["lr"] = 0.05
    expected = train_steps(twin, Muon(lr=0.05, sgd_lr=0.15, bias_lr=0.35).build(twin))
    torch.testing.assert_close(train_steps(network, halved), expected)


@pytest.mark.parametrize("cls", [Linear, CNN, FastCNN])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_parameter_is_in_one_group_and_only_filters_and_matrices_are_orthogonalised(cls, decay):
    network = cls(image_shape=(1, 28, 28), classes=3, **({"widths": [4]} if cls is FastCNN else {}))
    groups = Muon(lr=0.1, weight_decay=decay, sgd_weight_decay=decay).groups(network)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(map(id, network.parameters()))
    own = {id(p) for p in network.parameters() if p.ndim > 1} - {id(network.output.weight)}
    assert {id(p) for group in groups if group["iterations"] for p in group["params"]} == own
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == ({id(p) for p in network.parameters() if p.ndim > 1} if decay else set())


def test_normalised_filters_have_a_norm_of_one_on_average_before_each_update():
    network = CNN(image_shape=(1, 4, 4), classes=3, width=4)
    learnt = train_steps(network, Muon(lr=1e-9, normalize_filters=True).build(network), steps=1)
    for name, weight in learnt.items():
        if weight.ndim == 4:
            assert float(weight.square().flatten(1).sum(1).mean()) == pytest.approx(1), name


def test_a_weight_of_zeros_is_not_rescaled_and_still_learns():
    network = mlp()
    nn.init.zeros_(network.hidden[0].weight)
    learnt = train_steps(network, Muon(lr=0.1, normalize_filters=True).build(network))
    assert learnt["hidden.0.weight"].isfinite().all()
    assert learnt["hidden.0.weight"].any()


@pytest.mark.parametrize("iterations", [0, 21])
def test_too_few_or_too_many_iterations_are_refused(iterations):
    with pytest.raises(ValidationError, match="iterations"):
        Muon(lr=0.1, iterations=iterations)


def test_unknown_layers_are_refused():
    with pytest.raises(ConfigError, match=r"sgd_layers=head: must match a layer of hidden\.0, hidden\.2, output"):
        Muon(lr=0.1, sgd_layers=["head"]).build(mlp())
