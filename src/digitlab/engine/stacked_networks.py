"""The stacked networks of a population with their losses, dropout masks, optimizer and schedules.

``StackedRunner`` adds the execution. M members; C, H, W; K classes.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from digitlab.engine.cpu_tuning import forward_cost
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.dropout_masks import make_dropout_masks, network_with_most_dropout
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_optimizer import LearningRates, StackedOptimizer, StackedRule
from digitlab.engine.stacked_update import StackedUpdate
from digitlab.engine.stacking import stack_tensors, stack_values
from digitlab.engine.vmap_stack import VmapStack


class StackedNetworks:
    """The networks of ``members`` as stacked tensors, with all that an update of them needs.

    Members with the same seed must be adjacent, because they share a stream of mini-batches.
    """

    def __init__(self, members: Sequence[MemberSpec], *, device: torch.device) -> None:
        self._device, self._members = device, len(members)
        # Normalisation, image shape and classes are equal for all members of a population (see ``grouping``).
        first = members[0]
        networks = [member.network for member in members]
        self._template = network_with_most_dropout(networks)
        # Members with the same seed share a stream of mini-batches.
        self._sizes = [len(list(group)) for _, group in groupby(members, key=lambda member: member.seed)]
        parameters = stack_tensors([list(network.parameters()) for network in networks])
        self.buffers = stack_tensors([list(network.buffers()) for network in networks])
        averages = [member.average for member in members if member.average is not None]
        self.averages = stack_tensors([list(average.parameters()) for average in averages])
        # Dense networks have a form of their own: members of a stream share the product of their first layers.
        kind: type[DenseStack | VmapStack] = DenseStack if DenseStack.fits(self._template) else VmapStack
        self.stack = kind(self._template, parameters, buffers=self.buffers, stream_sizes=self._sizes)
        self._normalise, self._dtype = first.normalise, first.normalise.scale.dtype
        self._image_shape, self._classes = first.image_shape, first.classes
        losses = [member.loss for member in members]
        self.loss = StackedLoss.from_members(losses, device=device, dtype=self._dtype)
        self._masks = make_dropout_masks(
            networks, seeds=[member.seed for member in members], image_shape=self._image_shape,
            device=device, dtype=self._dtype,
        )  # fmt: skip
        # Maps streams to members without waiting for the device: an int64 index per member.
        self._stream_of = torch.tensor([s for s, size in enumerate(self._sizes) for _ in range(size)], device=device)
        optimizers = [member.optimizer for member in members]
        rule = StackedRule.from_optimizers(optimizers, networks, device=device)
        self.optimizer = StackedOptimizer(rule, optimizers, self.stack.parameters)
        # The eager rule uses plain numbers where members agree, which is faster. The compiled rule has tensors, which
        # makes a library fit other sweeps.
        self._compiled_rule = StackedRule.from_optimizers(optimizers, networks, device=device, always_tensors=True)
        self._learning_rates = LearningRates(
            optimizers, [member.schedule for member in members], steps_per_epoch=first.steps_per_epoch,
            total_steps=[member.total_steps for member in members],
        )  # fmt: skip
        self._ema_decay = stack_values([member.ema_decay for member in members])
        clip_norm = stack_values([member.gradient_clip_norm for member in members])
        self._clip_norm = None if clip_norm is None else clip_norm.to(device)
        self._update = StackedUpdate(
            stack=self.stack, loss=self.loss, rule=rule, apply=self.optimizer, averages=self.averages,
            clip_norm=self._clip_norm,
        )  # fmt: skip

    @cached_property
    def flops(self) -> int:
        """Multiplications and additions of one member's forward pass of an image."""
        return forward_cost(self._template, self._image_shape, self._normalise.scale).flops

    def member_tensors(self, member: int) -> Iterator[list[Tensor]]:
        """The parameters, the buffers and the averaged parameters of a member, as views of the stacked tensors."""
        for tensors in (self.stack.parameters, self.buffers, self.averages):
            yield [tensor[member] for tensor in tensors]

    def state_tensors(self) -> list[Tensor]:
        """All tensors that updates change."""
        state = self.optimizer.state
        moments = [tensor for tensors in state.entries.values() for tensor in tensors]
        return [*self.stack.parameters, *self.buffers, *self.averages, state.step, *moments]

    def expand_to_members(self, streams: Sequence[Tensor]) -> Tensor:
        """Turn one tensor per stream into a tensor (M, ...): each member has the row of its stream."""
        return torch.stack(list(streams)).index_select(0, self._stream_of)
