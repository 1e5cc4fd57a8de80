"""Optimisers of the solo run: each a typed schema that builds the ``torch.optim`` class of the same name.

``training.rules`` holds the same updates as pure functions, for populations and compiled steps; torch's are their
oracle. Muon alone builds a class of our own. Biases and the weights of norms are never decayed.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from digitlab.config.schema import NonNegativeFloat, PositiveFloat, Rate, settings
from digitlab.core.abilities import abilities
from digitlab.core.errors import ConfigError
from digitlab.optim import muon
from digitlab.optim.state import RuleName

Betas = Annotated[list[Rate], Field(min_length=2, max_length=2)]
# More would leave singular values where they are: about 1, where the iteration does not settle.
Iterations = Annotated[int, Field(ge=1, le=20)]


# Settings that make the groups, or come with each update.
_OF_GROUPS = ("lr", "weight_decay", "decay_layers")


@settings
class Optimizer:
    """What all have: the base learning rate, and weight decay on the weights of ``decay_layers`` (null: all).

    ``decay_layers`` are names of layers as the model summary shows them, or patterns such as ``hidden.*``.
    """

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    decay_layers: list[str] | None = None

    @abstractmethod
    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer: ...

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """The torch optimiser over the parameters of ``network``.

        Raises ``ConfigError`` where a pattern of ``decay_layers`` meets no layer that has a weight.
        """
        fused = abilities(next(network.parameters()).device).fused_optimizers
        return self._build(self.groups(network), **({"fused": True} if fused else {}))

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """The parameters of ``network`` as groups of a torch optimiser, in its order; raises as ``build`` does.

        Beside its ``params`` each has what the rule takes of each parameter, under the same names in all groups.
        """
        decayed: list[nn.Parameter] = []
        if self.weight_decay:
            decayed = _weights(network, ["*"] if self.decay_layers is None else self.decay_layers, "decay_layers")
        pairs = (decayed, self.weight_decay), (_without(network.parameters(), decayed), 0.0)
        return [{"params": parameters, "weight_decay": decay} for parameters, decay in pairs if parameters]

    @property
    def shared(self) -> dict[str, Any]:
        """What the rule takes once for all parameters, beside the learning rate."""
        return {name: value for name, value in vars(self).items() if name not in _OF_GROUPS}


@settings
class SGD(Optimizer):
    """Gradient descent; ``momentum`` after Sutskever et al. (2013), with or without Nesterov's look ahead."""

    momentum: Rate = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov", True, "needs a momentum above 0")

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, **fused)


@settings
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015); weight decay is coupled: it passes through the moments like any gradient."""

    betas: Betas = field(default_factory=lambda: [0.9, 0.999])
    eps: PositiveFloat = 1e-8

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.lr, betas=(self.betas[0], self.betas[1]), eps=self.eps, **fused)


@settings
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter, 2019): weight decay apart from the moments."""

    betas: Betas = field(default_factory=lambda: [0.9, 0.999])
    eps: PositiveFloat = 1e-8

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.betas[0], self.betas[1]), eps=self.eps, **fused)


@settings
class RMSprop(Optimizer):
    """RMSprop (Hinton, 2012), not centred."""

    momentum: Rate = 0.0
    alpha: Rate = 0.99
    eps: PositiveFloat = 1e-8

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        # torch has no fused RMSprop.
        return torch.optim.RMSprop(groups, lr=self.lr, momentum=self.momentum, alpha=self.alpha, eps=self.eps)


@settings
class Adagrad(Optimizer):
    """AdaGrad (Duchi et al., 2011)."""

    eps: PositiveFloat = 1e-10

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        # torch 2.11 has the fused kernel for the CPU only; later versions have one for CUDA, too.
        device = groups[0]["params"][0].device
        use_fused = fused.get("fused", False) and _has_kernel("aten::_fused_adagrad_", device)
        # Not None: torch would choose by itself.
        return torch.optim.Adagrad(groups, lr=self.lr, eps=self.eps, fused=use_fused)


@settings
class Muon(Optimizer):
    """Muon (Jordan et al., 2024) for the filters and matrices of all layers but ``sgd_layers``.

    Those descend with ``sgd_lr`` and, as far as they are decayed at all, ``sgd_weight_decay``; biases and norms with
    ``bias_lr`` (null: ``sgd_lr``); both with ``sgd_momentum``. A schedule acts on all rates alike. ``iterations`` make
    an update orthogonal.
    """

    momentum: Rate = 0.95
    iterations: Iterations = 5
    normalize_filters: bool = False
    sgd_layers: list[str] = field(default_factory=lambda: ["output"])
    sgd_lr: PositiveFloat = 0.1
    sgd_momentum: Rate = 0.9
    sgd_weight_decay: NonNegativeFloat = 0.0
    bias_lr: PositiveFloat | None = None

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        descending = _weights(network, self.sgd_layers, "sgd_layers")
        own = _without(_weights(network, ["*"], ""), descending)
        decayed = _weights(network, ["*"] if self.decay_layers is None else self.decay_layers, "decay_layers")
        bias_lr = self.sgd_lr if self.bias_lr is None else self.bias_lr
        kinds = (
            (own, self.weight_decay, self._numbers(self.lr, self.momentum, self.iterations)),
            (descending, self.sgd_weight_decay, self._numbers(self.sgd_lr, self.sgd_momentum)),
            (_without(network.parameters(), [*own, *descending]), 0.0, self._numbers(bias_lr, self.sgd_momentum)),
        )
        groups = []
        for parameters, decay, numbers in kinds:
            plain = _without(parameters, decayed) if decay else parameters
            for members, weight_decay in ((_without(parameters, plain), decay), (plain, 0.0)):
                if members:
                    groups.append({"params": members, "weight_decay": weight_decay} | numbers)
        return groups

    @property
    def shared(self) -> dict[str, Any]:
        return {}

    def _numbers(self, lr: float, momentum: float, iterations: int = 0) -> dict[str, Any]:
        """Of a group of ``muon.Muon``; those without ``iterations`` descend."""
        return {
            "iterations": iterations, "lr_factor": lr / self.lr, "momentum": momentum,
            "normalize_filters": self.normalize_filters,
        }  # fmt: skip

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        return muon.Muon(groups, lr=self.lr)


# One's own that is made of one of these has another update.
RULE_OF: Mapping[type[Optimizer], RuleName] = {
    SGD: "sgd", Adam: "adam", AdamW: "adamw", RMSprop: "rmsprop", Adagrad: "adagrad", Muon: "muon"
}  # fmt: skip


def of_each(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a group of parameters says of each of them."""
    return {name: value for name, value in group.items() if name != "params"}


def _has_kernel(operator: str, device: torch.device) -> bool:
    """Whether the installed torch implements ``operator``, such as ``aten::_fused_adagrad_``, on ``device``."""
    key = torch._C._dispatch_key_for_device(device.type)
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator, key))


def _weights(network: nn.Module, patterns: Sequence[str], key: str) -> list[nn.Parameter]:
    """The filters and matrices of the layers that ``patterns``, which stand at ``key``, meet.

    Raises ``ConfigError`` where one meets none.
    """
    weights = {name.removesuffix(".weight"): p for name, p in network.named_parameters() if p.ndim > 1}
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in weights):
            raise ConfigError(key, pattern, f"must match a layer of {', '.join(weights)}")
    return [p for layer, p in weights.items() if any(fnmatchcase(layer, pattern) for pattern in patterns)]


def _without(parameters: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    taken = {id(parameter) for parameter in others}
    return [parameter for parameter in parameters if id(parameter) not in taken]
