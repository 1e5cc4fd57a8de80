"""Optimisers of the solo run: each a typed schema that builds the ``torch.optim`` class of the same name.

``training.rules`` holds the same updates as pure functions, for populations and compiled steps; torch's are their
oracle. Biases and the weights of norms are never decayed.
"""

from abc import abstractmethod
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from digitlab.schema import ConfigError, NonNegativeFloat, PositiveFloat, Rate, settings

Betas = Annotated[list[Rate], Field(min_length=2, max_length=2)]

# torch's rules which exist as one fused kernel on every device, the CPU included.
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
_FUSED_DEVICES = ("cpu", "cuda")


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
        decayed, plain = self.split(network)
        groups = [
            {"params": parameters, "weight_decay": decay}
            for parameters, decay in ((decayed, self.weight_decay), (plain, 0.0))
            if parameters
        ]
        device = next(network.parameters()).device.type
        return self._build(groups, **({"fused": True} if device in _FUSED_DEVICES else {}))

    def split(self, network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that are decayed, and the others; without weight decay all are others, in one group."""
        if self.weight_decay == 0:
            return [], list(network.parameters())
        weights = {name.removesuffix(".weight"): p for name, p in network.named_parameters() if p.ndim > 1}
        patterns = ["*"] if self.decay_layers is None else self.decay_layers
        for pattern in patterns:
            if not any(fnmatchcase(layer, pattern) for layer in weights):
                raise ConfigError("decay_layers", pattern, f"must match a layer of {', '.join(weights)}")
        decayed = [p for layer, p in weights.items() if any(fnmatchcase(layer, pattern) for pattern in patterns)]
        taken = {id(p) for p in decayed}
        return decayed, [p for p in network.parameters() if id(p) not in taken]


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
        return torch.optim.Adagrad(groups, lr=self.lr, eps=self.eps, **({"fused": False} | fused))
