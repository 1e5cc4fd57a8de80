"""Builds one function of tensors that makes several updates of stacked networks, to be compiled or captured as a whole.

The function calls ``StackedUpdate`` several times. ``FusedCalls`` compiles it to a library on disk, or captures it as a
CUDA graph. One execution of either is a *call*. Stacked networks are M networks, the members, whose tensors are stacked
to (M, ...). Members with the same seed share a stream of mini-batches. Shapes: M members, S updates in a call, n images
in a mini-batch, C channels, H rows, W columns, K classes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from digitlab.engine.aot_cache import FlatFunction
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.stacked_loss import MemberLosses, StackedLoss
from digitlab.engine.stacked_optimizer import StackedRule
from digitlab.engine.stacked_update import StackedBatch, StackedUpdate
from digitlab.engine.stacking import expand_to_members
from digitlab.engine.vmap_stack import VmapStack
from digitlab.optim.state import RuleState


class MemberSettings(NamedTuple):
    """Settings that can differ between members: those of the update ``rule``, label ``smoothing`` and ``clip_norm``.

    ``smoothing`` (M, 1) is None if no member smooths, ``clip_norm`` (M,) is None if no member clips gradients.
    """

    rule: StackedRule
    smoothing: Tensor | None
    clip_norm: Tensor | None


class MemberState(NamedTuple):
    """The state of the members: stacked tensors with one row per member, (M, ...), and their settings.

    ``averages`` are the moving averages of the parameters, ``entries`` is that of ``RuleState``.
    """

    parameters: list[Tensor]
    buffers: list[Tensor]
    averages: list[Tensor]
    entries: dict[str, list[Tensor]]
    settings: MemberSettings


class SharedState(NamedTuple):
    """The tensors that all members share: the number of updates so far, ``scale`` and ``shift`` of ``Normalise``."""

    step: Tensor
    scale: Tensor
    shift: Tensor


class Inputs(NamedTuple):
    """The data of a call: S mini-batches, and the numbers that change with each update.

    ``pixels`` (streams, S, n, C, H, W) are uint8 or float in [0, 1], and ``targets`` (streams, S, n, ...) are encoded.
    They have one entry for each stream and not for each member, because copies would cost memory bandwidth. ``masks``
    has (M, S, n, ...) for each dropout layer. ``rates`` and ``ema_weight`` are float64 (M, S): the learning rates, and
    the weight of the new parameters in their moving average.
    """

    pixels: Tensor
    targets: Tensor
    masks: list[Tensor]
    rates: Tensor
    ema_weight: Tensor

    @classmethod
    def from_tensors(cls, tensors: Iterable[Tensor]) -> "Inputs":
        """Return the inputs from a list such as the property ``tensors`` returns."""
        pixels, targets, *masks, rates, ema_weight = tensors
        return cls(pixels, targets, masks, rates, ema_weight)

    def part(self, members: slice, streams: slice) -> "Inputs":
        """Return the inputs of some members and their streams, as views."""
        masks = [mask[members] for mask in self.masks]
        return Inputs(self.pixels[streams], self.targets[streams], masks, self.rates[members], self.ema_weight[members])

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in a flat list."""
        return [self.pixels, self.targets, *self.masks, self.rates, self.ema_weight]


class Outputs(NamedTuple):
    """The results of a call: the mean ``losses`` before each update, (M, S), and the ``logits``, (M, S, n, K)."""

    losses: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFunction:
    """Builds the function that trains stacked networks such as those of ``stack``, with the loss ``loss``.

    ``stream_sizes`` says how many members each stream has; None stands for one stream with any number of members. With
    ``single`` there is one member, whose state has no dimension for members (see ``VmapStack.as_single``).

    A CUDA graph holds this object, so it must refer neither to the graph nor to a runner: in a cycle of references, the
    stacked weights and the graph's memory would stay on the device until the garbage collector runs.
    """

    stack: DenseStack | VmapStack
    normalise: nn.Module
    loss: StackedLoss | MemberLosses
    stream_sizes: Sequence[int] | None = None
    single: bool = False

    def build(self, steps: int) -> Callable[[MemberState, SharedState, Inputs], Outputs]:
        """Return a function that makes ``steps`` updates. All state is in its arguments, so it can be traced.

        It changes the state in place. Wherever a tensor has a dimension of members, it is the first one, because
        ``compile_or_load`` lets only the first dimension differ between calls.
        """

        def run(members: MemberState, shared: SharedState, inputs: Inputs) -> Outputs:
            # While this is traced, the number of members is a symbol, so the library can be called with any number.
            sizes = [1] if self.single else self.stream_sizes or [members.parameters[0].shape[0]]
            update = self._update(members, RuleState(shared.step, members.entries), sizes)
            normalisation = {"scale": shared.scale, "shift": shared.shift}
            # Normalisation is part of the function, so that pixels enter as uint8, a quarter of the bytes.
            batches = [
                StackedBatch(
                    [functional_call(self.normalise, normalisation, (stream,)) for stream in inputs.pixels[:, step]],
                    expand_to_members(inputs.targets[:, step].unbind(), sizes),
                    [mask[:, step] for mask in inputs.masks],
                )
                for step in range(steps)
            ]
            # ``StackedUpdate`` takes the rates of one update, so the dimension of updates must be the first one.
            rates, ema_weight = inputs.rates.T, inputs.ema_weight.T
            if self.single:
                rates, ema_weight = rates.squeeze(1), ema_weight.squeeze(1)
            # The compiler traces this under ``no_grad``, but the stacks compute gradients with autograd.
            with torch.enable_grad():
                results = [
                    update.with_losses(batch, rates[step], ema_weight[step]) for step, batch in enumerate(batches)
                ]
            losses, logits = zip(*results, strict=True)
            return Outputs(torch.stack(losses, 1), torch.stack(logits, 1))

        return run

    def _update(self, members: MemberState, state: RuleState, sizes: Sequence[int]) -> StackedUpdate:
        """Return an update of networks with the tensors and settings of ``members`` and streams of these ``sizes``."""
        rule, smoothing, clip_norm = members.settings
        if self.single:
            assert isinstance(self.stack, VmapStack)
            stack: DenseStack | VmapStack = self.stack.as_single(members.parameters, members.buffers)
        else:
            stack = self.stack.with_tensors(members.parameters, members.buffers, stream_sizes=sizes)
        return StackedUpdate(
            # The members' settings are arguments of the function. As constants they would tie the library to one sweep.
            stack=stack, loss=self.loss.with_smoothing(smoothing), rule=rule, averages=members.averages,
            clip_norm=clip_norm,
            apply=lambda gradients, rates: rule.apply(members.parameters, gradients, state, rates=rates),
        )  # fmt: skip


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and dictionaries, as a flat list."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def map_tensors(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return the same nested lists, tuples and dictionaries with ``function(tensor)`` in place of each tensor."""
    return pytree.tree_map_only(Tensor, function, tree)


def flatten_arguments(run: Callable[..., Outputs], trees: Sequence[Any]) -> FlatFunction:
    """Return ``run(*trees, inputs)`` as a function of the tensors in ``trees``, followed by those of the inputs.

    Compiled libraries take flat lists only. Leaves of ``trees`` that are not tensors become constants of the function.
    """
    leaves, structure = pytree.tree_flatten(tuple(trees))
    # None stands for a tensor. The tensors themselves are dropped, because a library or graph of this function must not
    # keep a former state alive. Any other leaf is put into a tuple, because it may be None itself.
    constants = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]

    def flat_function(*tensors: Tensor) -> Sequence[Tensor]:
        remaining = iter(tensors)
        # Put the tensors and the constants back into the nested lists and dictionaries.
        values = [next(remaining) if constant is None else constant[0] for constant in constants]
        return tuple(run(*pytree.tree_unflatten(values, structure), Inputs.from_tensors(remaining)))

    return flat_function
