"""What a network's forward pass costs, counted once a run: threads, compiling and memory are decided by it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Work(NamedTuple):
    """Of the forward pass of one image.

    ``flops`` are multiplications and additions in matrix products and convolutions, ``largest_output`` is the number of
    entries of the largest tensor that a layer hands on.
    """

    flops: int
    largest_output: int


def forward_work(network: nn.Module, image_shape: Sequence[int], like: Tensor) -> Work:
    """The work of ``network`` for an image (C, H, W); ``like`` has the device and the dtype of the images."""
    training, sizes = network.training, [0]

    def measure(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, *image_shape, dtype=like.dtype, device=like.device))
    finally:
        for hook in hooks:
            hook.remove()
    network.train(training)
    return Work(int(counter.get_total_flops()), max(sizes))
