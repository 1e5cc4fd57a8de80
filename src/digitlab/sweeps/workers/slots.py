"""The places for jobs on one machine: how many there are, and which GPU and how many threads each of them has."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them: by index or by UUID."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        return [str(index) for index in range(torch.cuda.device_count())]
    names = [name.strip() for name in named.split(",")]
    # CUDA itself ends the list at the first that is no device.
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


def available_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slot_count(n_jobs: int | Literal["auto"], *, cores: int, gpus: Sequence[str]) -> int:
    """How many jobs run at once: ``auto`` is one a GPU, and one a core where there is no GPU."""
    return (len(gpus) or cores) if n_jobs == "auto" else n_jobs


def slot_environment(
    slot: int, *, slots: int, cores: int, gpus: Sequence[str], given: Mapping[str, str]
) -> dict[str, str]:
    """What the environment of a job in ``slot`` adds to ``given``: its GPU, and its share of the cores.

    Slots beyond the number of GPUs share them in turn. A number of threads in ``given`` is kept.
    """
    environment = {} if "OMP_NUM_THREADS" in given else {"OMP_NUM_THREADS": str(max(1, cores // slots))}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment
