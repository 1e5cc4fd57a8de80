"""Stacked networks with all that an update of them needs: losses, dropout masks, optimizer, learning rates.

The networks are the members of a population, which are trained together, or the single network of a solo run, which is
a stack of one. Each tensor of a network is a row of a stacked tensor (M, ...), where M is the number of members.
``StackedRunner`` trains populations with this class. ``FusedUpdates`` compiles its updates or captures them as CUDA
graphs.

Members with the same seed are trained on the same mini-batches in the same order. They share a *stream* of
mini-batches, which is prepared only once.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from digitlab.engine.cpu_tuning import forward_cost
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.dropout_masks import make_dropout_masks, network_with_most_dropout
from digitlab.engine.fusable import refuse_hooks
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.population_stack import population_stack
from digitlab.engine.stacked_loss import MemberLosses, StackedLoss
from digitlab.engine.stacked_optimizer import LearningRates, StackedOptimizer, StackedRule, ema_weights
from digitlab.engine.stacked_update import StackedUpdate
from digitlab.engine.stacking import stack_tensors, stack_values, view_as_stack
from digitlab.engine.vmap_stack import VmapStack


class StackedNetworks:
    """The networks of ``members`` as stacked tensors, with all that an update of them needs.

    Members with the same seed must be adjacent, because they share a stream. For a solo run there is one member, and
    ``shared_with`` is its torch optimizer: the stack then uses the memory of the network and of the optimizer's state.
    """

    def __init__(
        self,
        members: Sequence[MemberSpec],
        *,
        device: torch.device,
        shared_with: torch.optim.Optimizer | None = None,
    ) -> None:
        # A population of one member is not a solo run, as it has no torch optimizer.
        self.device, self.members, self.is_solo = device, len(members), shared_with is not None
        # ``population.grouping`` makes sure that all members have the same normalisation, image shape and classes.
        first = members[0]
        self.normalise, self.classes = first.normalise, first.classes
        networks = [member.network for member in members]
        # The module whose code is executed with each member's tensors. It needs a dropout layer wherever a member has
        # one.
        self._template = network_with_most_dropout(networks)
        # Multiplications and additions in one member's forward pass of one image.
        self.flops = forward_cost(self._template, first.image_shape, self.normalise.scale).flops
        # The number of members in each stream.
        self.stream_sizes = [len(list(group)) for _, group in groupby(members, key=lambda member: member.plan.seed)]
        # The stream of each member, as an index on the device: selecting with it does not make the host wait.
        streams = [stream for stream, size in enumerate(self.stream_sizes) for _ in range(size)]
        self._stream_of = torch.tensor(streams, device=device)
        # The tensors of a population are copied into stacks. Those of a solo run stay where they are, because the eager
        # step changes them, too.
        stack = view_as_stack if self.is_solo else stack_tensors
        self.buffers = stack([list(network.buffers()) for network in networks])
        averages = [member.average for member in members if member.average is not None]
        self.averages = stack([list(average.parameters()) for average in averages])
        dtype = self.normalise.scale.dtype
        # The loss of a solo run may be a class of the user, which has no stacked form.
        losses = [member.loss for member in members]
        self.loss: StackedLoss | MemberLosses = (
            MemberLosses(losses) if self.is_solo else StackedLoss.from_members(losses, device=device, dtype=dtype)
        )
        self.masks = make_dropout_masks(
            networks, seeds=[member.plan.seed for member in members], image_shape=first.image_shape,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.stack = self._stack(stack([list(network.parameters()) for network in networks]), first.autocast_dtype)
        optimizers = [member.optimizer for member in members]
        rule = StackedRule.from_optimizers(optimizers, networks, device=device)
        self.optimizer = StackedOptimizer(rule, optimizers, self.stack.parameters)
        if shared_with is not None:
            self.optimizer.share(list(first.network.parameters()), shared_with)
        # The rule above, for eager updates, has plain numbers for settings that are equal in all members, which is
        # faster. In the rule for compiled updates they are tensors. A library on disk then does not contain their
        # values, and other sweeps can use it.
        self.compiled_rule = StackedRule.from_optimizers(optimizers, networks, device=device, always_tensors=True)
        plans = [member.plan for member in members]
        self._learning_rates = LearningRates(optimizers, [member.schedule for member in members], plans)
        self._ema_decay = stack_values([member.ema_decay for member in members])
        clip_norm = stack_values([member.gradient_clip_norm for member in members])
        self.clip_norm = None if clip_norm is None else clip_norm.to(device)
        self.update = StackedUpdate(
            stack=self.stack, loss=self.loss, rule=rule, apply=self.optimizer, averages=self.averages,
            clip_norm=self.clip_norm,
        )  # fmt: skip

    def _stack(self, parameters: list[Tensor], autocast_dtype: torch.dtype | None) -> DenseStack | VmapStack:
        """Return the stack, which computes logits and gradients, with ``parameters`` (M, ...)."""
        with_masks = self.masks is not None
        if not self.is_solo:
            # Populations do not use autocast.
            return population_stack(
                self._template, parameters, buffers=self.buffers, stream_sizes=self.stream_sizes, with_masks=with_masks
            )
        # A solo run calls its network as it is, even a dense one. Stacked products would not be faster, but they would
        # add up in another order, so results would differ from those of the eager step in the last bits.
        return VmapStack(
            self._template, parameters, buffers=self.buffers, stream_sizes=self.stream_sizes, one_by_one=True,
            with_masks=with_masks, autocast_dtype=autocast_dtype,
        )  # fmt: skip

    def refuse_hooks(self) -> None:
        """Raise ``CompilerError`` if the networks have hooks: see ``fusable``."""
        refuse_hooks(self._template)

    def member_tensors(self, member: int) -> Iterator[list[Tensor]]:
        """Yield the parameters, the buffers and the averaged parameters of a member, as views of the stacks."""
        for tensors in (self.stack.parameters, self.buffers, self.averages):
            yield [tensor[member] for tensor in tensors]

    def state_tensors(self) -> list[Tensor]:
        """Return all tensors that updates change."""
        state = self.optimizer.state
        # What the optimizer keeps for each parameter, for example a momentum buffer.
        moments = [tensor for tensors in state.entries.values() for tensor in tensors]
        return [*self.stack.parameters, *self.buffers, *self.averages, state.step, *moments]

    def expand_to_members(self, streams: Sequence[Tensor]) -> Tensor:
        """Turn one tensor per stream into a tensor (M, ...) in which each member has the tensor of its stream."""
        # ``stacking.expand_to_members`` makes one operation for each stream, which would take longer on a GPU. These
        # are always two.
        return torch.stack(list(streams)).index_select(0, self._stream_of)

    def rates(self, first: int, steps: int) -> tuple[Tensor, Tensor]:
        """Return the learning rates of ``steps`` mini-batches from ``first`` on, and the EMA weights.

        An EMA weight is the weight of the new parameters in the moving average of the parameters; 0 without an average.
        Both are float64 (steps, M) on the host: schedules are Python functions, which neither a compiler nor a GPU can
        call, and one copy to the device for a whole chunk is cheaper than one for each update.
        """
        table = self._learning_rates.table(first, steps)
        if self._ema_decay is None:
            return table, torch.zeros_like(table)
        return table, ema_weights(self._ema_decay, first=first, steps=steps)
