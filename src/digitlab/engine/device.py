"""What sets a GPU apart: the host must not wait for it within a chunk, and its tensor cores round their factors.

The host waits for every number that it reads, and for every copy that is not from pinned memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from digitlab.core.abilities import abilities

# The values of trainer.precision, and the dtype each one trains in (bf16: mixed, the weights stay float32).
Precision = Literal[32, 64, "32", "32-true", "64", "bf16"]
PRECISIONS: dict[str, torch.dtype] = {
    "32": torch.float32, "32-true": torch.float32, "64": torch.float64, "bf16": torch.bfloat16
}  # fmt: skip


def on_device(values: float | Sequence[float] | Tensor, device: torch.device) -> Tensor:
    """``values`` of the host as a float64 tensor on ``device``, for which it does not wait."""
    own = torch.as_tensor(values, dtype=torch.float64)
    if abilities(device).non_blocking_copies:
        return own.pin_memory().to(device, non_blocking=True)
    return own.to(device)


def reads_at_once(device: torch.device) -> bool:
    """Whether a number is there as soon as it is asked for; elsewhere numbers are read once a chunk or a pass."""
    return abilities(device).immediate_reads


def as_numbers(losses: Sequence[Tensor | float]) -> list[float]:
    """Scalars, which a device may hold, as numbers; it is waited for once."""
    on_device = [loss for loss in losses if isinstance(loss, Tensor)]
    return torch.stack(on_device).tolist() if on_device else [loss for loss in losses if isinstance(loss, float)]


@contextmanager
def float32_products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Have matrix products and convolutions of float32 on CUDA round their factors to TF32, unless it is ``32-true``.

    TF32 has the range of float32 and ten bits of mantissa; the sums stay float32. Elsewhere nothing changes.
    """
    if not abilities(device).tf32:
        yield
        return
    rounded = str(precision) != "32-true"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
