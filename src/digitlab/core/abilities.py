"""What the code asks of a device: each kind of device has its abilities, and nothing else compares names of devices.

``data``, ``training`` and ``results`` use it.
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
    """What a kind of device can do; the defaults are those of a device that is not known."""

    # A number is there as soon as the host asks for it; elsewhere the host waits for all work before it.
    immediate_reads: bool = False
    # Updates can be recorded as CUDA graphs and replayed.
    cuda_graphs: bool = False
    # torch has fused kernels for its optimisers.
    fused_optimizers: bool = False
    # The host does not wait for a copy to the device if its own memory is pinned.
    non_blocking_copies: bool = False
    # Products of float32 can round their factors to TF32.
    tf32: bool = False
    # Products in bfloat16 are faster than in float32.
    fast_bfloat16: bool = False
    # It computes in float64 at all.
    float64: bool = True
    # Thousands of images at once are evaluated faster than hundreds.
    large_batches: bool = False
    # The generator that layers such as dropout draw from.
    default_generator: Callable[[torch.device], torch.Generator] = _cpu_generator
    # A new generator for draws on the device.
    new_generator: Callable[[torch.device], torch.Generator] = torch.Generator
    # The name of the model of the device.
    model_name: Callable[[torch.device], str] | None = None


# By the type of the device.
ABILITIES = {
    "cpu": DeviceAbilities(immediate_reads=True, fused_optimizers=True),
    "cuda": DeviceAbilities(
        cuda_graphs=True, fused_optimizers=True, non_blocking_copies=True, tf32=True, fast_bfloat16=True,
        large_batches=True, default_generator=_cuda_generator, model_name=torch.cuda.get_device_name,
    ),
    "mps": DeviceAbilities(float64=False, default_generator=_mps_generator),
}  # fmt: skip
_UNKNOWN = DeviceAbilities()


def abilities(device: torch.device) -> DeviceAbilities:
    """The abilities of devices of the type of ``device``."""
    return ABILITIES.get(device.type, _UNKNOWN)
