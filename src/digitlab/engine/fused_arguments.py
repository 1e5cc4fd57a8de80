"""The updates of several mini-batches as one function of tensors, which a compiler can take as a whole.

It does what ``TrainStep`` does, whose results are its measure; ``compiled`` builds, keeps and calls its compiled form.
S updates in a call; n images in a mini-batch, C, H, W, K classes.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from digitlab.engine.aot_cache import FlatFunction
from digitlab.engine.device import on_device
from digitlab.engine.dropout_masks import masked, masked_layers
from digitlab.optim.functional import CLIP_EPS, RULES
from digitlab.optim.losses import Loss
from digitlab.optim.state import RuleName, RuleState

# What a sweep is likely to vary comes with each call: its runs share one library.
VARIED = ("lr_factor", "momentum", "weight_decay")


class State(NamedTuple):
    """What updates change, in place: a run's state, whose tensors the program is given at each call.

    ``parameters`` are in the order of the optimiser, and so are ``entries``, as in ``RuleState``.
    """

    parameters: list[Tensor]
    buffers: list[Tensor]
    average_parameters: list[Tensor]
    average_buffers: list[Tensor]
    entries: dict[str, list[Tensor]]
    step: Tensor


class Constants(NamedTuple):
    """What stays as it is: the settings of the rule, and the normalisation's ``scale`` and ``shift``.

    ``shared`` are those of all parameters, ``groups`` those of each group of the optimiser. What is a tensor of them, a
    float64 scalar, comes with each call; the others are part of the program.
    """

    shared: dict[str, Any]
    groups: list[dict[str, Any]]
    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, shared: dict[str, Any], groups: Iterable[dict[str, Any]], scale: Tensor, shift: Tensor) -> "Constants":
        """Of settings as the optimiser's schema has them; a number that is zero is none at all."""

        def given(settings: dict[str, Any]) -> dict[str, Any]:
            return settings | {name: on_device(settings[name], scale.device) for name in VARIED if settings.get(name)}

        return cls(given(shared), [given(group) for group in groups], scale, shift)


class Inputs(NamedTuple):
    """What a call is given beside: ``pixels`` (S, n, C, H, W), uint8 or float in [0, 1], and encoded ``targets``.

    ``masks`` (S, n, ...) belong to the dropout layers. ``rates`` and ``ema_weight`` are float64 (S,): the learning
    rates, and the weight of the new parameters in their moving average.
    """

    pixels: Tensor
    targets: Tensor
    masks: list[Tensor]
    rates: Tensor
    ema_weight: Tensor

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> "Inputs":
        """Of ``tensors`` what that property had."""
        pixels, targets, *masks, rates, ema_weight = tensors
        return cls(pixels, targets, masks, rates, ema_weight)

    @property
    def tensors(self) -> list[Tensor]:
        """All of it, one beside the other."""
        return [self.pixels, self.targets, *self.masks, self.rates, self.ema_weight]


class Outputs(NamedTuple):
    """What a call returns: ``losses`` (S,), nan where a clipped gradient is not finite, and ``logits`` (S, n, K)."""

    losses: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """``network``, whose weights are not looked at, trained by ``rule``.

    ``names`` are the parameters' in the order of the optimiser, ``group_of`` says in which of its groups each is.
    """

    network: nn.Module
    normalise: nn.Module
    loss: Loss
    rule: RuleName
    names: Sequence[str]
    group_of: Sequence[int]
    autocast_dtype: torch.dtype | None
    gradient_clip_norm: float | None

    def function(self, steps: int) -> Callable[[State, Constants, Inputs], Outputs]:
        """``steps`` updates, of which nothing but tensors is asked."""
        network = masked(self.network).train()
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.requires_grad_(False)
        masks = [f"{name}.mask" for name, _ in masked_layers(network)]
        buffers = [name for name, _ in self.network.named_buffers()]

        def forward(
            weights: Sequence[Tensor], kept: State, fixed: Constants, given: Inputs, place: int
        ) -> tuple[Tensor, Tensor]:
            images = functional_call(
                self.normalise, {"scale": fixed.scale, "shift": fixed.shift}, (given.pixels[place],)
            )
            values = dict(zip(self.names, weights, strict=True)) | dict(zip(buffers, kept.buffers, strict=True))
            values |= {name: mask[place] for name, mask in zip(masks, given.masks, strict=True)}
            device = images.device.type
            autocast = nullcontext() if self.autocast_dtype is None else torch.autocast(device, self.autocast_dtype)
            with autocast:
                logits: Tensor = functional_call(network, values, (images,))
                return logits, self.loss(logits, given.targets[place])

        def update(kept: State, fixed: Constants, given: Inputs, place: int) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                weights = [parameter.detach().requires_grad_() for parameter in kept.parameters]
                logits, loss = forward(weights, kept, fixed, given, place)
                gradients = list(torch.autograd.grad(loss, weights))
            loss = loss.detach()
            if self.gradient_clip_norm is not None:
                norm = nn.utils.get_total_norm(gradients)
                factor = (self.gradient_clip_norm / (norm + CLIP_EPS)).clamp(max=1)
                gradients = [gradient * factor for gradient in gradients]
                # One that is infinite is scaled to zeros, which leave no trace.
                loss = loss + 0 * norm
            of_each = {name: [fixed.groups[group][name] for group in self.group_of] for name in fixed.groups[0]}
            state = RuleState(kept.step, kept.entries)
            RULES[self.rule](kept.parameters, gradients, state, lr=given.rates[place], **fixed.shared, **of_each)
            for average, parameter in zip(kept.average_parameters, kept.parameters, strict=False):
                average.lerp_(parameter, given.ema_weight[place].to(average.dtype))
            for average, buffer in zip(kept.average_buffers, kept.buffers, strict=False):
                average.copy_(buffer)
            return loss, logits.detach()

        def run(kept: State, fixed: Constants, given: Inputs) -> Outputs:
            with torch.no_grad():
                taken = [update(kept, fixed, given, place) for place in range(steps)]
                return Outputs(*(torch.stack(list(each)) for each in zip(*taken, strict=True)))

        return run


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors of nested lists, tuples and dictionaries, one beside the other."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def flat(run: Callable[..., Outputs], trees: Sequence[Any]) -> FlatFunction:
    """``run(*trees, given)`` as a function of the tensors in ``trees`` and in ``given``, one beside the other.

    What else is in ``trees`` stays as it is.
    """
    leaves, form = pytree.tree_flatten(tuple(trees))

    def flattened(*tensors: Tensor) -> Sequence[Tensor]:
        left = iter(tensors)
        own = pytree.tree_unflatten([next(left) if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)
        return tuple(run(*own, Inputs.of(left)))

    return flattened
