"""Describes what a result depends on besides its configuration: versions, commit, hardware, command.

``result.json`` of every run and the records of the benchmarks contain it.
"""

import platform
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from digitlab.config.compose import ROOT
from digitlab.config.place import train_command
from digitlab.core.abilities import abilities
from digitlab.core.system import available_cores, memory_bytes, processor_name

_PACKAGES = ("digitlab", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "tensorboard")


@cache  # a sweep asks for the same versions in every run
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Return the versions of Python and the main packages; ``unknown`` for a package without metadata."""
    return {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES}


def git_commit() -> str | None:
    """Return the commit of the project, with ``-dirty`` if tracked files differ from it; None outside a repository."""
    try:
        describe = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def hardware(device: torch.device, *, threads: int | None = None) -> dict[str, str | int]:
    """Return the processor, the cores that this process may use, the memory in GiB, and the training device.

    ``threads`` is the number of threads that the updates used, by default torch's current number.
    """
    memory = memory_bytes()
    facts: dict[str, str | int] = {
        "cpu": processor_name(),
        "cores": available_cores(),
        "cpu_capability": cpu_capability(),
        "threads": torch.get_num_threads() if threads is None else threads,
        "device": device.type,
    }
    if memory is not None:
        facts["memory_gib"] = round(memory / 2**30)
    # Only GPUs have a function that returns their name.
    if (model_name := abilities(device).model_name) is not None:
        facts["gpu"] = model_name(device)
    return facts


def cpu_capability() -> str:
    """Return the instruction set for which torch chose its kernels: ``DEFAULT``, ``AVX2``, ``AVX512``, …

    Results repeat to the bit only under the same instruction set.
    """
    return torch.backends.cpu.get_cpu_capability()


def command(overrides: Sequence[str]) -> str:
    """Return the shell command that runs ``overrides`` again."""
    return shlex.join([*train_command(), *overrides])
