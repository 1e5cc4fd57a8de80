"""Chooses the type of device on which a run trains, and detects GPUs for which the installed torch has no kernels.

With ``trainer=auto``, a run trains on the best device that torch can use. ``settings``, ``experiment`` and
``evaluation`` use it.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import torch

log = logging.getLogger(__name__)

Accelerator = Literal["auto", "cpu", "cuda", "mps"]


def choose_accelerator(setting: Accelerator) -> Literal["cpu", "cuda", "mps"]:
    """Return ``setting``. If it is ``auto``, return CUDA if torch can use it, else Apple's GPU (MPS), else the CPU.

    If there is a CUDA device that torch can't use, a warning says why.
    """
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        problem = cuda_problem()
        if problem is None:
            return "cuda"
        log.warning("%s: using the CPU", problem)
    return "mps" if torch.backends.mps.is_available() else "cpu"


def cuda_problem() -> str | None:
    """Return why torch can't use the first CUDA device, which must exist; None if it can."""
    built_for, capability = torch.cuda.get_arch_list(), torch.cuda.get_device_capability()
    # On AMD's GPUs (HIP) the architectures have other names, and torch checks them itself.
    if torch.version.hip is not None or has_kernels(capability, built_for):
        return None
    architecture = "sm_{}{}".format(*capability)
    return f"{torch.cuda.get_device_name()} ({architecture}): this torch has kernels for {', '.join(built_for)} only"


def has_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Return whether a torch that is ``built_for`` these architectures runs on a GPU of this compute capability.

    Kernels for ``sm_86``, for example, run on GPUs with the same major version, 8, and at least the minor version 6.
    The driver can compile the code for ``compute_90``, for example, for GPUs with version 9.0 and all later ones.
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
