"""Several updates of the members of one stream as one function of tensors, which a compiler can take as a whole.

Its steps are those of the learner (``steps``), which makes them one by one; ``compiled`` builds, keeps and calls it.
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
from digitlab.engine.stacked_steps import Batch, Steps
from digitlab.engine.stacked_update import Rule
from digitlab.optim.state import RuleState


class Numbers(NamedTuple):
    """The members' own: ``smoothing`` (M, 1) of labels and ``clip_norm`` (M,) are None where no member has any."""

    rule: Rule
    smoothing: Tensor | None
    clip_norm: Tensor | None


class Rows(NamedTuple):
    """Stacked tensors with one row per member, (M, ...); ``entries`` are those of ``RuleState``."""

    parameters: list[Tensor]
    buffers: list[Tensor]
    averages: list[Tensor]
    entries: dict[str, list[Tensor]]
    numbers: Numbers


class Shared(NamedTuple):
    """What all members share: the number of updates made, and the normalisation's ``scale`` and ``shift``."""

    step: Tensor
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Updates of networks of the kind of ``stack``, with a loss like ``loss``."""

    stack: DenseStack
    normalise: nn.Module
    loss: StackedLoss

    def function(self, steps: int) -> Callable[[Rows, Shared, Inputs], Outputs]:
        """``steps`` updates, of which nothing but tensors is asked.

        Of what is given, masks, rates and pull are (M, S, …); so is what is taken.
        """

        def run(rows: Rows, shared: Shared, given: Inputs) -> Outputs:
            members = rows.parameters[0].shape[0]
            rule, smoothing, clip_norm = rows.numbers
            loss, state = self.loss.given(smoothing), RuleState(shared.step, rows.entries)
            updates = Steps(
                stack=self.stack.given(rows.parameters, rows.buffers, stream_sizes=[members]),
                loss=loss, rule=rule, averages=rows.averages, clip_norm=clip_norm,
                update=lambda gradients, rates: rule.apply(rows.parameters, gradients, state, rates=rates),
            )  # fmt: skip
            normalisation = {"scale": shared.scale, "shift": shared.shift}
            batches = []
            for place in range(steps):
                images = functional_call(self.normalise, normalisation, (given.pixels[place],))
                targets = given.targets[place].expand(members, *given.targets.shape[1:])
                batches.append(Batch([images], targets, [mask[:, place] for mask in given.masks]))
            rates, ema_weight = given.rates.T, given.ema_weight.T
            with torch.enable_grad():
                logits = [updates(batch, rates[place], ema_weight[place]) for place, batch in enumerate(batches)]
            losses = [loss(own, batch.targets).mean(1) for own, batch in zip(logits, batches, strict=True)]
            return Outputs(torch.stack(losses, 1), torch.stack(logits, 1))

        return run
