"""Several updates of a solo run as one function of tensors, which a compiler or a CUDA graph can take as a whole.

The function computes what ``TrainStep`` computes; the tests compare the two. ``compiled_solo`` calls it; populations
share ``Inputs`` and ``Outputs`` (``fused_update``). S updates in a call, n images in a mini-batch; C, H, W; K classes.
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
from digitlab.engine.dropout_masks import MaskedDropout, dropout_rate, mask_layers, replace_dropout
from digitlab.optim.functional import CLIP_EPS, RULES
from digitlab.optim.losses import Loss
from digitlab.optim.state import RuleName, RuleState

# Settings that sweeps usually vary are arguments of a compiled call, so that all runs of a sweep share one library.
VARIED_SETTINGS = ("lr_factor", "momentum", "weight_decay")


class State(NamedTuple):
    """The tensors of a run that updates change in place.

    ``parameters`` and the lists in ``entries`` (the optimizer's moments, as in ``RuleState``) are in the order of the
    optimizer. ``step`` counts updates.
    """

    parameters: list[Tensor]
    buffers: list[Tensor]
    average_parameters: list[Tensor]
    average_buffers: list[Tensor]
    entries: dict[str, list[Tensor]]
    step: Tensor


class Constants(NamedTuple):
    """What updates do not change: the settings of the rule, and the normalisation's ``scale`` and ``shift``.

    ``shared`` are the settings of all parameters, ``groups`` those of each parameter group. Settings that are tensors
    (float64 scalars) are arguments of a compiled call; all others are compiled into it.
    """

    shared: dict[str, Any]
    groups: list[dict[str, Any]]
    scale: Tensor
    shift: Tensor

    @classmethod
    def from_settings(
        cls, shared: dict[str, Any], groups: Iterable[dict[str, Any]], scale: Tensor, shift: Tensor
    ) -> "Constants":
        """Turn the optimizer's settings that sweeps vary into tensors.

        Zero stays a number: it switches the setting off, which is a different function.
        """

        def with_tensors(settings: dict[str, Any]) -> dict[str, Any]:
            varied = [name for name in VARIED_SETTINGS if settings.get(name)]
            return settings | {name: on_device(settings[name], scale.device) for name in varied}

        return cls(with_tensors(shared), [with_tensors(group) for group in groups], scale, shift)


class Inputs(NamedTuple):
    """The data of a call: ``pixels`` (S, n, C, H, W), uint8 or float in [0, 1], and encoded ``targets``.

    ``masks`` (S, n, ...) belong to the dropout layers. ``rates`` and ``ema_weight`` are float64 (S,): the learning
    rates, and the weight of the new parameters in their moving average.
    """

    pixels: Tensor
    targets: Tensor
    masks: list[Tensor]
    rates: Tensor
    ema_weight: Tensor

    @classmethod
    def from_tensors(cls, tensors: Iterable[Tensor]) -> "Inputs":
        """The inputs whose ``tensors`` property returned this list."""
        pixels, targets, *masks, rates, ema_weight = tensors
        return cls(pixels, targets, masks, rates, ema_weight)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in a flat list."""
        return [self.pixels, self.targets, *self.masks, self.rates, self.ema_weight]


class Outputs(NamedTuple):
    """What a call returns: ``losses`` (S,), nan where a clipped gradient is not finite, and ``logits`` (S, n, K)."""

    losses: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFunction:
    """Builds the function that trains networks like ``network`` by ``rule``; it does not use the network's weights.

    ``names`` are the names of the parameters in the order of the optimizer; ``group_of`` is the index of each one's
    parameter group.
    """

    network: nn.Module
    normalise: nn.Module
    loss: Loss
    rule: RuleName
    names: Sequence[str]
    group_of: Sequence[int]
    autocast_dtype: torch.dtype | None
    gradient_clip_norm: float | None

    def build(self, steps: int) -> Callable[[State, Constants, Inputs], Outputs]:
        """A function that makes ``steps`` updates. All state is in its arguments, so it can be traced."""
        # Random numbers could not be traced, so dropout multiplies by masks that are inputs. Some networks have dropout
        # layers even at rate 0: no masks are drawn for these, so the layers do nothing.
        replacement = MaskedDropout if dropout_rate(self.network) else nn.Identity
        network = replace_dropout(self.network, replacement).train()
        # These tensors are only placeholders: ``functional_call`` replaces them with those of the state.
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.requires_grad_(False)
        masks = [f"{name}.mask" for name, _ in mask_layers(network)]
        buffers = [name for name, _ in self.network.named_buffers()]

        def forward(
            weights: Sequence[Tensor], state: State, constants: Constants, inputs: Inputs, step: int
        ) -> tuple[Tensor, Tensor]:
            # Normalisation is part of the function, so that pixels enter as uint8, a quarter of the bytes.
            images = functional_call(
                self.normalise, {"scale": constants.scale, "shift": constants.shift}, (inputs.pixels[step],)
            )
            values = dict(zip(self.names, weights, strict=True)) | dict(zip(buffers, state.buffers, strict=True))
            values |= {name: mask[step] for name, mask in zip(masks, inputs.masks, strict=True)}
            device = images.device.type
            autocast = nullcontext() if self.autocast_dtype is None else torch.autocast(device, self.autocast_dtype)
            with autocast:
                logits: Tensor = functional_call(network, values, (images,))
                return logits, self.loss(logits, inputs.targets[step])

        def update(state: State, constants: Constants, inputs: Inputs, step: int) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                # Detached, so that autograd ends here. Otherwise the graph would reach through all S updates.
                weights = [parameter.detach().requires_grad_() for parameter in state.parameters]
                logits, loss = forward(weights, state, constants, inputs, step)
                gradients = list(torch.autograd.grad(loss, weights))
            loss = loss.detach()
            if self.gradient_clip_norm is not None:
                gradients, norm = _clip(gradients, self.gradient_clip_norm)
                # An infinite gradient is scaled to zeros and leaves no trace in the weights. A nan in the loss tells
                # the chunk runner that the update went wrong.
                loss = loss + 0 * norm
            per_parameter = {
                name: [constants.groups[group][name] for group in self.group_of] for name in constants.groups[0]
            }
            RULES[self.rule](
                state.parameters, gradients, RuleState(state.step, state.entries), lr=inputs.rates[step],
                **constants.shared, **per_parameter,
            )  # fmt: skip
            for average, parameter in zip(state.average_parameters, state.parameters, strict=False):
                average.lerp_(parameter, inputs.ema_weight[step].to(average.dtype))
            for average, buffer in zip(state.average_buffers, state.buffers, strict=False):
                # Statistics of batch norm are averages already, so they are copied, as in the eager step.
                average.copy_(buffer)
            # Detached: the caller stacks the logits, and autograd has nothing more to do with them.
            return loss, logits.detach()

        def run(state: State, constants: Constants, inputs: Inputs) -> Outputs:
            with torch.no_grad():
                results = [update(state, constants, inputs, step) for step in range(steps)]
                return Outputs(*(torch.stack(list(column)) for column in zip(*results, strict=True)))

        return run


def _clip(gradients: Sequence[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    """The gradients, scaled down together to ``max_norm`` if their norm is larger, and that norm."""
    # The same formula as clip_grad_norm_, but without writing to gradients in place.
    norm = nn.utils.get_total_norm(gradients)
    factor = (max_norm / (norm + CLIP_EPS)).clamp(max=1)
    return [gradient * factor for gradient in gradients], norm


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dictionaries, as a flat list."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def flatten_arguments(run: Callable[..., Outputs], trees: Sequence[Any]) -> FlatFunction:
    """``run(*trees, inputs)`` as a function of a flat list: the tensors in ``trees``, then those of the inputs.

    Compiled libraries take flat lists only. Leaves of ``trees`` that are not tensors become constants of the function.
    """
    leaves, structure = pytree.tree_flatten(tuple(trees))

    def flat_function(*tensors: Tensor) -> Sequence[Tensor]:
        remaining = iter(tensors)
        # Tensors take their places again in the nested lists and dictionaries; settings that are numbers stay as they
        # are.
        arguments = pytree.tree_unflatten(
            [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
        )
        return tuple(run(*arguments, Inputs.from_tensors(remaining)))

    return flat_function
