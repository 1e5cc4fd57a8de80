"""Settings of the optimizers; each builds the ``torch.optim`` optimizer of the same name for eager solo runs.

``conf/optimizer/`` names them. An eager solo run trains one network and executes PyTorch's operations one by one.
Compiled runs, and populations of networks that are trained together, use the same settings with the rules in
``functional``; PyTorch's optimizers are the reference for those rules. Only Muon builds an optimizer of digitlab's own.
Biases and the weights of normalisation layers are never decayed.
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
# After a few iterations, singular values stay between about 0.7 and 1.2, so more than 20 would only take time.
Iterations = Annotated[int, Field(ge=1, le=20)]

# All other settings are passed to an update rule unchanged. The learning rate follows a schedule, and weight decay
# differs between groups of parameters.
_NOT_SHARED = ("lr", "weight_decay", "decay_layers")


@settings
class Optimizer:
    """The settings that all optimizers have.

    ``lr`` is the base learning rate. ``weight_decay`` acts on the weights of ``decay_layers``, which are names of
    layers as in the model summary or patterns such as ``hidden.*`` (null: all layers).
    """

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    decay_layers: list[str] | None = None

    @abstractmethod
    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        """Return the optimizer for ``groups``; ``fused`` is ``{"fused": True}``, or empty where torch has no kernel."""

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the ``torch.optim`` optimizer for the parameters of ``network``.

        Raises:
            ConfigError: a pattern of ``decay_layers`` matches no layer with a weight.
        """
        fused = abilities(next(network.parameters()).device).fused_optimizers
        return self._build(self.groups(network), **({"fused": True} if fused else {}))

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Return the parameters of ``network`` as groups for a ``torch.optim`` optimizer, in its order.

        Each group is a dictionary with ``params``, a list, and the settings that hold for these parameters. All groups
        have the same keys.

        Raises:
            ConfigError: as ``build``.
        """
        decayed: list[nn.Parameter] = []
        if self.weight_decay:
            decayed = self._decayed_weights(network)
        candidates = (decayed, self.weight_decay), (_without(network.parameters(), decayed), 0.0)
        return [{"params": parameters, "weight_decay": decay} for parameters, decay in candidates if parameters]

    def _decayed_weights(self, network: nn.Module) -> list[nn.Parameter]:
        """Return the weights of ``decay_layers``; raises ``ConfigError`` as ``build``."""
        return _weights(network, ["*"] if self.decay_layers is None else self.decay_layers, "decay_layers")

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that the update rule takes once for all parameters, without the learning rate."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_SHARED}


@settings
class SGD(Optimizer):
    """Gradient descent, with ``momentum`` after Sutskever et al. (2013), and ``nesterov`` for Nesterov's form of it."""

    momentum: Rate = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov", True, "needs a momentum above 0")

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, **fused)


@settings
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015); weight decay is coupled: it is added to the gradient before the moments."""

    betas: Betas = field(default_factory=lambda: [0.9, 0.999])
    eps: PositiveFloat = 1e-8

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.lr, betas=(self.betas[0], self.betas[1]), eps=self.eps, **fused)


@settings
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter, 2019): weight decay is decoupled, it shrinks the parameters directly."""

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
        # PyTorch has no fused RMSprop.
        return torch.optim.RMSprop(groups, lr=self.lr, momentum=self.momentum, alpha=self.alpha, eps=self.eps)


@settings
class Adagrad(Optimizer):
    """AdaGrad (Duchi et al., 2011)."""

    eps: PositiveFloat = 1e-10

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        # PyTorch 2.11 has the fused kernel for the CPU only; later versions also have one for CUDA.
        device = groups[0]["params"][0].device
        use_fused = fused.get("fused", False) and _has_kernel("aten::_fused_adagrad_", device)
        # False and not None: with None, PyTorch chooses an implementation by itself.
        return torch.optim.Adagrad(groups, lr=self.lr, eps=self.eps, fused=use_fused)


@settings
class Muon(Optimizer):
    """Muon (Jordan et al., 2024) for the filters and matrices of all layers except ``sgd_layers``.

    ``sgd_layers`` are trained by gradient descent with the learning rate ``sgd_lr`` and, for those in ``decay_layers``,
    with ``sgd_weight_decay``. Biases and the weights of normalisation layers are trained with ``bias_lr`` (null:
    ``sgd_lr``). Both have the momentum ``sgd_momentum``. A schedule multiplies all learning rates by the same factor.
    ``iterations`` and ``normalize_filters`` are explained in ``muon.muon``.
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
        """As ``Optimizer.groups``; also raises ``ConfigError`` if a pattern of ``sgd_layers`` matches no layer."""
        sgd_weights = _weights(network, self.sgd_layers, "sgd_layers")
        muon_weights = _without(_weights(network, ["*"], ""), sgd_weights)
        others = _without(network.parameters(), [*muon_weights, *sgd_weights])  # biases and normalisation layers
        decayed = self._decayed_weights(network)
        bias_lr = self.sgd_lr if self.bias_lr is None else self.bias_lr
        kinds = (
            (muon_weights, self.weight_decay, self._rule_settings(self.lr, self.momentum, self.iterations)),
            (sgd_weights, self.sgd_weight_decay, self._rule_settings(self.sgd_lr, self.sgd_momentum)),
            (others, 0.0, self._rule_settings(bias_lr, self.sgd_momentum)),
        )
        groups = []
        # Within each kind, the parameters with and without decay are groups of their own.
        for parameters, decay, rule_settings in kinds:
            undecayed = _without(parameters, decayed) if decay else parameters
            for group, weight_decay in ((_without(parameters, undecayed), decay), (undecayed, 0.0)):
                if group:
                    groups.append({"params": group, "weight_decay": weight_decay} | rule_settings)
        return groups

    @property
    def shared(self) -> dict[str, Any]:
        # The groups have all settings.
        return {}

    def _rule_settings(self, lr: float, momentum: float, iterations: int = 0) -> dict[str, Any]:
        """Return the settings of a group for ``muon.muon``; with 0 ``iterations`` it is trained by gradient descent.

        ``lr_factor`` is the learning rate of the group as a multiple of ``self.lr``, which the schedule changes.
        """
        return {
            "iterations": iterations, "lr_factor": lr / self.lr, "momentum": momentum,
            "normalize_filters": self.normalize_filters,
        }  # fmt: skip

    def _build(self, groups: list[dict[str, Any]], **fused: bool) -> torch.optim.Optimizer:
        return muon.Muon(groups, lr=self.lr)


# The update rule of each settings class. A user's subclass has none, because its update may be another one.
RULE_OF: Mapping[type[Optimizer], RuleName] = {
    SGD: "sgd", Adam: "adam", AdamW: "adamw", RMSprop: "rmsprop", Adagrad: "adagrad", Muon: "muon"
}  # fmt: skip


def group_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group without its ``params``."""
    return {name: value for name, value in group.items() if name != "params"}


def _has_kernel(operator: str, device: torch.device) -> bool:
    """Return whether the installed torch implements ``operator``, such as ``aten::_fused_adagrad_``, on ``device``."""
    key = torch._C._dispatch_key_for_device(device.type)
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator, key))


def _weights(network: nn.Module, patterns: Sequence[str], key: str) -> list[nn.Parameter]:
    """Return the weights with two or more dimensions (filters and matrices) of the layers that match ``patterns``.

    Raises:
        ConfigError: a pattern matches no layer; ``key`` is the setting that the patterns come from.
    """
    weights = {name.removesuffix(".weight"): p for name, p in network.named_parameters() if p.ndim > 1}
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in weights):
            raise ConfigError(key, pattern, f"must match a layer of {', '.join(weights)}")
    return [p for layer, p in weights.items() if any(fnmatchcase(layer, pattern) for pattern in patterns)]


def _without(parameters: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return those ``parameters`` that are not among ``others``."""
    excluded = {id(parameter) for parameter in others}
    return [parameter for parameter in parameters if id(parameter) not in excluded]
