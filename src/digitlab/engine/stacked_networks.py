"""Stacked networks with their losses, dropout masks, optimizer and schedules: a population, or a solo run as a stack.

``StackedRunner`` trains populations with it, ``FusedUpdates`` compiles and captures its updates. M members; C, H, W; K
classes.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from digitlab.engine.cpu_tuning import forward_cost
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.dropout_masks import make_dropout_masks, network_with_most_dropout
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.stacked_loss import MemberLosses, StackedLoss
from digitlab.engine.stacked_optimizer import LearningRates, StackedOptimizer, StackedRule, ema_weights
from digitlab.engine.stacked_update import StackedUpdate
from digitlab.engine.stacking import stack_tensors, stack_values, view_as_stack
from digitlab.engine.vmap_stack import VmapStack


def has_hooks(network: nn.Module) -> bool:
    """Whether forward hooks watch the layers of ``network``."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class StackedNetworks:
    """The networks of ``members`` as stacked tensors, with all that an update of them needs.

    Members with the same seed must be adjacent, because they share a stream of mini-batches. With ``shared_with``, the
    optimizer of a solo run, there is one member: the stack then is a view of its network and of the optimizer's state.
    """

    def __init__(
        self,
        members: Sequence[MemberSpec],
        *,
        device: torch.device,
        shared_with: torch.optim.Optimizer | None = None,
    ) -> None:
        self.device, self.members, self.alone = device, len(members), shared_with is not None
        # Normalisation, image shape and classes are equal for all members of a population (see ``grouping``).
        first = members[0]
        self.normalise, self.classes = first.normalise, first.classes
        networks = [member.network for member in members]
        self._template = network_with_most_dropout(networks)
        # Of one member's forward pass of an image.
        self.flops = forward_cost(self._template, first.image_shape, self.normalise.scale).flops
        # Members with the same seed share a stream of mini-batches.
        self.stream_sizes = [len(list(group)) for _, group in groupby(members, key=lambda member: member.plan.seed)]
        # Maps streams to members without waiting for the device: an int64 index per member.
        streams = [stream for stream, size in enumerate(self.stream_sizes) for _ in range(size)]
        self._stream_of = torch.tensor(streams, device=device)
        # A population's tensors are copied to be adjacent. A solo run keeps its own, which the eager step changes too.
        stack = view_as_stack if self.alone else stack_tensors
        self.buffers = stack([list(network.buffers()) for network in networks])
        averages = [member.average for member in members if member.average is not None]
        self.averages = stack([list(average.parameters()) for average in averages])
        dtype = self.normalise.scale.dtype
        # A solo run may have a loss of the user's own, which has no stacked form.
        losses = [member.loss for member in members]
        self.loss: StackedLoss | MemberLosses = (
            MemberLosses(losses) if self.alone else StackedLoss.from_members(losses, device=device, dtype=dtype)
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
        # The eager rule uses plain numbers where members agree, which is faster. The compiled rule has tensors, which
        # makes a library fit other sweeps.
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
        if not self.alone and DenseStack.fits(self._template):
            # Dense networks have a form of their own: members of a stream share the product of their first layers.
            return DenseStack(self._template, parameters, buffers=self.buffers, stream_sizes=self.stream_sizes)
        # Alone, also dense networks are called as they are: stacked products would only add up in another order.
        return VmapStack(
            self._template, parameters, buffers=self.buffers, stream_sizes=self.stream_sizes,
            one_by_one=self.alone or self.device.type == "cpu", masked=self.masks is not None,
            autocast_dtype=autocast_dtype,
        )  # fmt: skip

    @property
    def has_hooks(self) -> bool:
        """Whether forward hooks watch the layers of the networks."""
        return has_hooks(self._template)

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
        # Two operations for any number of streams.
        return torch.stack(list(streams)).index_select(0, self._stream_of)

    def rates(self, first: int, steps: int) -> tuple[Tensor, Tensor]:
        """Learning rates, and weights of the new parameters in their averages, of mini-batches from ``first`` on.

        Both are float64 (steps, M) on the host: schedules are Python functions, which neither a compiler nor a GPU can
        call, and one copy for a whole chunk is cheaper than one per update.
        """
        table = self._learning_rates.table(first, steps)
        if self._ema_decay is None:
            return table, torch.zeros_like(table)
        return table, ema_weights(self._ema_decay, first=first, steps=steps)
