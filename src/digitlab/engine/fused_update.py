"""Several updates of the members of one stream as one function of tensors, which a compiler can take as a whole.

The function makes the same updates as ``StackedUpdate``, which it contains; ``compiled_update`` compiles and calls it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.fused_arguments import Inputs, Outputs
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_optimizer import StackedRule
from digitlab.engine.stacked_update import StackedBatch, StackedUpdate
from digitlab.optim.state import RuleState


class MemberSettings(NamedTuple):
    """The members' own numbers: label ``smoothing`` (M, 1) and ``clip_norm`` (M,), None if no member has any."""

    rule: StackedRule
    smoothing: Tensor | None
    clip_norm: Tensor | None


class MemberState(NamedTuple):
    """Stacked tensors with one row per member, (M, ...); ``entries`` are those of ``RuleState``."""

    parameters: list[Tensor]
    buffers: list[Tensor]
    averages: list[Tensor]
    entries: dict[str, list[Tensor]]
    settings: MemberSettings


class SharedState(NamedTuple):
    """What all members share: the number of updates made, and the normalisation's ``scale`` and ``shift``."""

    step: Tensor
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedUpdateFunction:
    """Builds the function that trains stacked networks of the kind of ``stack`` with a loss like ``loss``."""

    stack: DenseStack
    normalise: nn.Module
    loss: StackedLoss

    def build(self, steps: int) -> Callable[[MemberState, SharedState, Inputs], Outputs]:
        """A function that makes ``steps`` updates. All state is in its arguments, so it can be traced.

        Unlike in a solo run, the masks and rates in its inputs and both of its outputs begin with the members: (M, S,
        ...). The compiler lets only the first dimension vary between calls.
        """

        def run(members: MemberState, shared: SharedState, inputs: Inputs) -> Outputs:
            # The number of members is a symbol while this is traced: the library serves any number.
            count = members.parameters[0].shape[0]
            rule, smoothing, clip_norm = members.settings
            # The members' own numbers are arguments. As constants they would tie the library to one sweep.
            loss, state = self.loss.with_smoothing(smoothing), RuleState(shared.step, members.entries)
            update = StackedUpdate(
                stack=self.stack.with_tensors(members.parameters, members.buffers, stream_sizes=[count]),
                loss=loss, rule=rule, averages=members.averages, clip_norm=clip_norm,
                apply=lambda gradients, rates: rule.apply(members.parameters, gradients, state, rates=rates),
            )  # fmt: skip
            normalisation = {"scale": shared.scale, "shift": shared.shift}
            # All members of a call belong to one stream, so they share images and targets.
            batches = []
            for step in range(steps):
                images = functional_call(self.normalise, normalisation, (inputs.pixels[step],))
                targets = inputs.targets[step].expand(count, *inputs.targets.shape[1:])
                batches.append(StackedBatch([images], targets, [mask[:, step] for mask in inputs.masks]))
            # Updates take one row per step.
            rates, ema_weight = inputs.rates.T, inputs.ema_weight.T
            # The compiler traces without gradients; batch norm and activations need them.
            with torch.enable_grad():
                logits = [update(batch, rates[step], ema_weight[step]) for step, batch in enumerate(batches)]
            # Losses come from the logits before each update, like those of the eager step.
            losses = [loss(own, batch.targets).mean(1) for own, batch in zip(logits, batches, strict=True)]
            return Outputs(torch.stack(losses, 1), torch.stack(logits, 1))

        return run
