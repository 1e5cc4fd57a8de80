"""What each type of device can do. ``data``, ``engine``, ``training`` and ``results`` look it up here.

A new type of device needs an entry here. Elsewhere, the name of a type is compared only where one type is a case of its
own: threads, freed memory and stacked convolutions on the CPU, the architecture of CUDA devices, and which devices
populations can use.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


def _cpu_generator(device: torch.device) -> torch.Generator:
    return torch.default_generator


def _cuda_generator(device: torch.device) -> torch.Generator:
    generator: torch.Generator = torch.cuda.default_generators[device.index or 0]
    return generator


def _mps_generator(device: torch.device) -> torch.Generator:
    return torch.mps._get_default_mps_generator()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAbilities:
    """What a type of device can do. The defaults are safe for an unknown type."""

    # Reading a number from the device costs nothing. On other devices the host waits for all queued work first.
    immediate_reads: bool = False
    # The device can capture updates as CUDA graphs and replay them.
    cuda_graphs: bool = False
    # torch has fused optimizer kernels for the device: one kernel updates many parameters. The optimizers of torch use
    # them.
    fused_optimizers: bool = False
    # The update rules of ``optim.functional`` use these kernels, too. This saves time where launching a kernel takes
    # longer than updating a small parameter.
    fused_rules: bool = False
    # A copy from pinned host memory does not block the host.
    non_blocking_copies: bool = False
    # Matrix products in float32 can round their factors to TF32.
    tf32: bool = False
    # Matrix products are faster in bfloat16 than in float32.
    fast_bfloat16: bool = False
    # The device can compute in float64.
    float64: bool = True
    # Evaluation is faster with batches of thousands of images than with batches of hundreds.
    large_batches: bool = False
    # Returns the generator that layers such as dropout draw from.
    default_generator: Callable[[torch.device], torch.Generator] = _cpu_generator
    # Makes a new random generator for tensors on the device.
    new_generator: Callable[[torch.device], torch.Generator] = torch.Generator
    # Returns the most bytes of the device's memory that torch has reserved in this process so far.
    peak_memory: Callable[[torch.device], int] | None = None
    # Returns the name of the hardware model, for example "NVIDIA H100".
    model_name: Callable[[torch.device], str] | None = None

    @property
    def widest_float(self) -> torch.dtype:
        """float64, or float32 on devices that do not have it (Apple's)."""
        return torch.float64 if self.float64 else torch.float32


# The keys are device types, as in ``torch.device.type``.
ABILITIES = {
    "cpu": DeviceAbilities(immediate_reads=True, fused_optimizers=True),
    "cuda": DeviceAbilities(
        cuda_graphs=True, fused_optimizers=True, fused_rules=True, non_blocking_copies=True, tf32=True,
        fast_bfloat16=True, large_batches=True, default_generator=_cuda_generator,
        peak_memory=torch.cuda.max_memory_reserved, model_name=torch.cuda.get_device_name,
    ),
    "mps": DeviceAbilities(float64=False, default_generator=_mps_generator),
}  # fmt: skip
_UNKNOWN = DeviceAbilities()


def abilities(device: torch.device) -> DeviceAbilities:
    """Return what devices of the type of ``device`` can do."""
    return ABILITIES.get(device.type, _UNKNOWN)
