"""Copies between host and GPU that do not make the host wait, and the precision of matrix products on a GPU.

The host, which is the CPU with its memory, queues operations for a GPU. It waits for every number that it reads from
the GPU, and for every copy that is not from pinned memory. Within a chunk (several mini-batches in a row) it must not
wait, because the GPU would then have nothing to do. ``engine``, ``training`` and ``population`` use this module.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from digitlab.core.abilities import abilities

# The values of trainer.precision and the dtype of each. With bf16 (mixed precision) the weights stay float32.
Precision = Literal[32, 64, "32", "32-true", "64", "bf16"]
PRECISIONS: dict[str, torch.dtype] = {
    "32": torch.float32, "32-true": torch.float32, "64": torch.float64, "bf16": torch.bfloat16
}  # fmt: skip


def on_device(values: float | Sequence[float] | Tensor, device: torch.device) -> Tensor:
    """Copy ``values`` from the host to a float64 tensor on ``device``, without waiting if the device allows that."""
    on_host = torch.as_tensor(values, dtype=torch.float64)
    if abilities(device).non_blocking_copies:
        return on_host.pin_memory().to(device, non_blocking=True)
    return on_host.to(device)


def reads_at_once(device: torch.device) -> bool:
    """Return whether reading a number from ``device`` costs no wait, as on the CPU.

    On other devices, numbers are read only once for each chunk or pass over the data.
    """
    return abilities(device).immediate_reads


def as_numbers(losses: Sequence[Tensor | float]) -> list[float]:
    """Convert scalar tensors to floats, for which the host waits once; return a list of floats as it is.

    ``losses`` contains either tensors only or floats only.
    """
    tensors = [loss for loss in losses if isinstance(loss, Tensor)]
    return torch.stack(tensors).tolist() if tensors else [loss for loss in losses if isinstance(loss, float)]


@contextmanager
def float32_products(device: torch.device, precision: Precision) -> Iterator[None]:
    """In the with block, let float32 matrix products and convolutions on CUDA round their factors to TF32.

    TF32 has the range of float32, but only ten bits of mantissa, and is several times faster; sums stay float32. With
    ``precision`` ``32-true`` the factors are not rounded. Nothing changes on other devices.
    """
    if not abilities(device).tf32:
        yield
        return
    allow_tf32 = str(precision) != "32-true"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = allow_tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
