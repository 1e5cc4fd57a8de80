"""Describes what a result depends on besides its configuration: versions, commit, hardware, command."""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from digitlab.config.compose import ROOT
from digitlab.core.abilities import abilities

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
    facts: dict[str, str | int] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cpu_capability": cpu_capability(),
        "threads": torch.get_num_threads() if threads is None else threads,
        "memory_gib": round(memory_bytes() / 2**30),
        "device": device.type,
    }
    if (model_name := abilities(device).model_name) is not None:
        facts["gpu"] = model_name(device)
    return facts


def cpu_capability() -> str:
    """Return the instruction set for which torch chose its kernels: ``DEFAULT``, ``AVX2``, ``AVX512``, …

    Results repeat to the bit only under the same instruction set.
    """
    return torch.backends.cpu.get_cpu_capability()


def memory_bytes() -> int:
    """Return the size of this machine's memory, used and free together."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def command(overrides: Sequence[str]) -> str:
    """Return the shell command that runs ``overrides`` again."""
    return shlex.join(["python", "train.py", *overrides])
