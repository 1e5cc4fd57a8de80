"""Chooses the device of a run for ``trainer=auto``, and finds GPUs for which the installed torch has no kernels."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch

log = logging.getLogger(__name__)

Accelerator = Literal["auto", "cpu", "cuda", "mps"]


def choose_accelerator(asked: Accelerator) -> Literal["cpu", "cuda", "mps"]:
    """Return ``asked``, or for ``auto`` CUDA if torch can use it, else Apple's GPU, else the CPU.

    If there is a CUDA device that torch can't use, a warning says so.
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        problem = cuda_problem()
        if problem is None:
            return "cuda"
        log.warning("%s: using the CPU", problem)
    return "mps" if torch.backends.mps.is_available() else "cpu"


def cuda_problem() -> str | None:
    """Return why torch can't use the first CUDA device, which must exist; None if it can."""
    built_for, capability = torch.cuda.get_arch_list(), torch.cuda.get_device_capability()
    # On AMD's GPUs the names are of another kind, and torch checks them itself.
    if torch.version.hip is not None or has_kernels(capability, built_for):
        return None
    architecture = "sm_{}{}".format(*capability)
    return f"{torch.cuda.get_device_name()} ({architecture}): this torch has kernels for {', '.join(built_for)} only"


def has_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Return whether a torch that is ``built_for`` some architectures runs on a GPU of this compute capability.

    ``built_for`` has names such as ``sm_86``, whose kernels run on GPUs of the same major version and at least its
    minor version, and ``compute_90``, which the driver can compile for all later GPUs.
    """
    for name in built_for:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("af")  # sm_90a and sm_100f have extra instructions
        major, minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= capability:
            return True
    return False
