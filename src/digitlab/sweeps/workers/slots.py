"""Divides one machine among the jobs that run at once: how many there are, and each one's GPU and threads."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by index or UUID as in ``CUDA_VISIBLE_DEVICES``."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        # Only now: a list in the environment makes the import, which takes seconds, unnecessary.
        import torch

        return [str(index) for index in range(torch.cuda.device_count())]
    names = [name.strip() for name in named.split(",")]
    # CUDA ignores everything after the first invalid device.
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


def slot_count(n_jobs: int | Literal["auto"], *, cores: int, gpus: Sequence[str]) -> int:
    """The number of jobs that run at once: ``auto`` means one for each GPU, or one for each core without a GPU."""
    return (len(gpus) or cores) if n_jobs == "auto" else n_jobs


def slot_environment(
    slot: int, *, slots: int, cores: int, gpus: Sequence[str], given: Mapping[str, str]
) -> dict[str, str]:
    """The environment variables to add to ``given`` for a job in ``slot``: its GPU and its number of threads.

    If there are more slots than GPUs, they share them in turn. A number of threads in ``given`` stays.
    """
    # Without a limit, every job would start a thread for each core, and the threads would wait for each other.
    environment = {} if "OMP_NUM_THREADS" in given else {"OMP_NUM_THREADS": str(max(1, cores // slots))}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment
