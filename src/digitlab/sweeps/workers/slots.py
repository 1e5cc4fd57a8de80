"""Divides one machine among the jobs that run at once. A slot is the share of one job: its GPU and its threads.

The launchers in ``hydra_plugins`` that use other processes on this machine call it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by index or UUID as in ``CUDA_VISIBLE_DEVICES``."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        # The import takes seconds, and it is not needed if the variable lists the GPUs.
        import torch

        return [str(index) for index in range(torch.cuda.device_count())]
    names = [name.strip() for name in variable.split(",")]
    # CUDA ignores everything after the first invalid device.
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


def slot_count(n_jobs: int | Literal["auto"], *, cores: int, gpus: Sequence[str]) -> int:
    """Return the number of jobs that run at once. ``auto`` means one per GPU, or without GPUs one per core."""
    return (len(gpus) or cores) if n_jobs == "auto" else n_jobs


def slot_environment(
    slot: int, *, slots: int, cores: int, gpus: Sequence[str], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment variables to add to ``given`` for a job in ``slot``: its GPU and its number of threads.

    ``slot`` is in [0, ``slots``). If there are more slots than GPUs, several slots share a GPU. A number of threads in
    ``given`` is not changed.
    """
    # Without a limit, every job would start a thread for each core, and the threads would wait for each other.
    environment = {} if "OMP_NUM_THREADS" in given else {"OMP_NUM_THREADS": str(max(1, cores // slots))}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment
