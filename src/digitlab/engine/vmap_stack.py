"""Stacked networks of any class: called one after another, or mapped by ``torch.func.vmap`` (functorch, 2021).

Stacked networks are the M members of a population, which are trained together; their tensors are (M, ...).
``StackedNetworks`` uses this class for all networks that ``DenseStack`` does not fit, and for compiled and captured
solo runs, which are stacks of one. On a CPU, the members' forward passes run one after another, with the operations of
a solo run. Mapped convolutions are not faster there. They would also add up in another order, and that changes the
results: the gradients of convolutions before a batch norm are differences of nearly equal sums.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from digitlab.engine.dropout_masks import MaskedDropout, mask_layers, replace_dropout
from digitlab.engine.stacking import expand_to_members


class VmapStack:
    """M networks with the architecture of ``template``, a module whose code is executed with each member's tensors.

    ``parameters`` and ``buffers`` are stacked, (M, ...), in the template's order. A stream is the mini-batches that
    members with the same seed share; ``stream_sizes`` says how many members each stream has. ``one_by_one`` says
    whether members are called one after another instead of mapped, and ``with_masks`` whether any member has dropout.
    With ``autocast_dtype``, matrix products are computed in that dtype. ``as_single`` makes a stack of one whose
    tensors have no dimension for members.
    """

    def __init__(
        self,
        template: nn.Module,
        parameters: Sequence[Tensor],
        *,
        buffers: Sequence[Tensor],
        stream_sizes: Sequence[int],
        one_by_one: bool,
        with_masks: bool = True,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        self.parameters, self._buffers = list(parameters), list(buffers)
        self._stream_sizes = list(stream_sizes)
        self._one_by_one, self._autocast_dtype = one_by_one, autocast_dtype
        # Random numbers can be neither mapped nor traced, so dropout masks are inputs. Some networks have dropout
        # layers even at rate 0. If no member has dropout, no masks are drawn, and identities replace these layers.
        self._template = replace_dropout(template, MaskedDropout if with_masks else nn.Identity)
        # The tensors of this copy are never used: each call replaces them with those of a member.
        self._template.requires_grad_(False)
        self._names = [name for name, _ in template.named_parameters()]
        self._buffer_names = [name for name, _ in template.named_buffers()]
        self._mask_names = [f"{name}.mask" for name, _ in mask_layers(self._template)]
        self._single = False
        self._gradients: list[Tensor] = []

    def with_tensors(
        self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], *, stream_sizes: Sequence[int]
    ) -> "VmapStack":
        """Return a stack of networks of the same architecture with other tensors."""
        stack = copy.copy(self)
        stack.parameters, stack._buffers, stack._stream_sizes = list(parameters), list(buffers), list(stream_sizes)
        return stack

    def as_single(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> "VmapStack":
        """Return a stack of one network with these tensors; they and its gradients have no dimension for members.

        The compiler chooses the memory layout of a convolution by that of its weights. If these were rows of stacked
        tensors, it would not see that they are channels last, and LeNet would need 1.7 times as long.
        """
        stack = self.with_tensors(parameters, buffers, stream_sizes=[1])
        stack._single = True
        return stack

    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Compute logits (M, n, K) in training mode, in the precision of the images.

        ``images`` has (n, C, H, W) for each stream, ``masks`` (M, n, ...) for each dropout layer, or nothing without
        dropout.
        """
        self._template.train()
        if not self._one_by_one:
            # One mapped call for all members. The leaves are the tensors whose gradients autograd computes. They are
            # new for each update, because the parameters themselves change in place and must not have gradients.
            self._leaves = [[parameter.detach().requires_grad_() for parameter in self.parameters]]
            # vmap needs one batch per member, unless all members have the same.
            one_stream = len(images) == 1
            batch = images[0] if one_stream else expand_to_members(images, self._stream_sizes)
            buffers_and_masks = [*self._buffers, *masks]
            call_members = vmap(self._call, in_dims=(0, 0, None if one_stream else 0))
            logits = call_members(self._leaves[0], buffers_and_masks, batch)
            self._logits = [logits]
            return logits.detach()
        # One call for each member, with leaves of its own. If stacked tensors were the leaves, autograd would have to
        # select a row, and compute the gradient of this selection, for each member and tensor.
        rows_of_members = [self.parameters] if self._single else _by_member(self.parameters)
        self._leaves = [[row.detach().requires_grad_() for row in rows] for rows in rows_of_members]
        batches = [stream for stream, size in zip(images, self._stream_sizes, strict=True) for _ in range(size)]
        self._logits = [
            self._call(*arguments)
            for arguments in zip(self._leaves, self._buffers_and_masks(masks, len(batches)), batches, strict=True)
        ]
        return _stack([logits.detach() for logits in self._logits])

    def backward(self, gradient: Tensor) -> None:
        """Compute the gradients from ``gradient``, the derivative of the loss by the logits (M, n, K)."""
        if not self._one_by_one:
            self._gradients = list(torch.autograd.grad(self._logits[0], self._leaves[0], gradient))
            return
        by_member = [
            torch.autograd.grad(logits, leaves, member_gradient)
            for logits, leaves, member_gradient in zip(self._logits, self._leaves, gradient.unbind(), strict=True)
        ]
        self._gradients = (
            list(by_member[0]) if self._single else [_stack(rows) for rows in zip(*by_member, strict=True)]
        )

    def _buffers_and_masks(self, masks: Sequence[Tensor], members: int) -> list[list[Tensor]]:
        """Return the buffers and masks of each member."""
        if self._single:
            return [[*self._buffers, *(mask[0] for mask in masks)]]
        return _by_member([*self._buffers, *masks], members)

    def gradients(self) -> list[Tensor]:
        """Return the gradients that ``backward`` computed, in the order of the parameters."""
        return self._gradients

    def evaluate(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Compute logits (M, n, K) of the same images (n, C, H, W) for all members, in evaluation mode.

        ``parameters``, (M, ...), are those of the stack or their moving averages.
        """
        self._template.eval()
        if not self._one_by_one:
            logits: Tensor = vmap(self._call, in_dims=(0, 0, None))(list(parameters), self._buffers, images)
            return logits
        members = zip(_by_member(parameters), _by_member(self._buffers, len(parameters[0])), strict=True)
        return _stack([self._call(weights, buffers, images) for weights, buffers in members])

    def _call(self, parameters: Sequence[Tensor], buffers_and_masks: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return the logits (n, K) of one member. Its masks follow its buffers; there are none in evaluation."""
        values = dict(zip(self._names, parameters, strict=True))
        # In evaluation mode, dropout layers do not use their masks, so these may be missing.
        values |= dict(zip((*self._buffer_names, *self._mask_names), buffers_and_masks, strict=False))
        device, dtype = images.device.type, self._autocast_dtype
        with nullcontext() if dtype is None else torch.autocast(device, dtype):
            logits: Tensor = functional_call(self._template, values, (images,))
        # Losses are computed in the precision of the weights, as under autocast.
        return logits.to(images.dtype)


def _by_member(tensors: Sequence[Tensor], members: int = 0) -> list[list[Tensor]]:
    """Return the rows of stacked tensors (M, ...), one list per member.

    ``members`` is M. It is needed only if ``tensors`` may be empty.
    """
    rows = [tensor.unbind() for tensor in tensors]
    return [list(member_rows) for member_rows in zip(*rows, strict=True)] if rows else [[] for _ in range(members)]


def _stack(rows: Sequence[Tensor]) -> Tensor:
    """Stack one tensor per member, (M, ...); a stack of one is a view, which costs nothing in a solo run."""
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(list(rows))
