"""Stacks the networks of a population, its members, in the form that trains and evaluates them fastest.

``StackedNetworks`` uses it for training and ``stack_networks`` for evaluations.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.vmap_stack import VmapStack


def population_stack(
    template: nn.Module,
    parameters: Sequence[Tensor],
    *,
    buffers: Sequence[Tensor],
    stream_sizes: Sequence[int],
    with_masks: bool = True,
) -> DenseStack | VmapStack:
    """Return a stack of networks like ``template`` with these tensors, (M, ...).

    ``stream_sizes`` and ``with_masks`` are those of ``VmapStack``.
    """
    if DenseStack.fits(template):
        # A faster form for dense networks: one matrix product computes the first layers of all members of a stream.
        return DenseStack(template, parameters, buffers=buffers, stream_sizes=stream_sizes)
    one_by_one = parameters[0].device.type == "cpu"
    return VmapStack(
        template, parameters, buffers=buffers, stream_sizes=stream_sizes, one_by_one=one_by_one, with_masks=with_masks
    )
