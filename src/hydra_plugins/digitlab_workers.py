"""``hydra/launcher=joblib``, ``submitit_local`` and ``submitit_slurm``: run the jobs of a sweep in other processes.

Hydra imports this module at every start, so nothing here imports torch, pydantic, joblib or
submitit before a pool is built.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import OmegaConf

from digitlab.core.errors import ConfigError
from digitlab.core.extras import require_packages
from digitlab.core.system import available_cores
from digitlab.sweeps.workers.launcher import WorkersLauncher
from digitlab.sweeps.workers.pools import JoblibPool, Pool, SubmititLocalPool
from digitlab.sweeps.workers.slots import slot_count, slot_environment, visible_gpus
from digitlab.sweeps.workers.slurm_pool import SlurmPool

if TYPE_CHECKING:
    from digitlab.sweeps.workers.settings import SlurmSettings


class JoblibLauncher(WorkersLauncher):
    """Worker processes on this machine that run many jobs each. ``given`` are the fields of ``JoblibSettings``."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._given = given

    def pool(self, *, under: str = "hydra.launcher") -> Pool:
        from digitlab.sweeps.workers.settings import JoblibSettings, checked_settings

        require_packages("launchers", "joblib", key="hydra/launcher", value="joblib")
        settings = checked_settings(JoblibSettings, self._given, under=under)
        return JoblibPool(_environments(self, settings.n_jobs))


class SubmititLocalLauncher(WorkersLauncher):
    """A new process on this machine for each job, with log files as on a cluster. ``given``: see ``LocalSettings``."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._given = given

    def pool(self, *, under: str = "hydra.launcher") -> Pool:
        from digitlab.sweeps.workers.settings import LocalSettings, checked_settings

        require_packages("launchers", "submitit", key="hydra/launcher", value="submitit_local")
        from submitit import LocalExecutor

        settings = checked_settings(LocalSettings, self._given, under=under)
        # A job that reaches its time limit is queued again, which the executor counts.
        executor = LocalExecutor(_logs(self), max_num_timeout=settings.max_num_timeout)
        executor.update_parameters(timeout_min=settings.timeout_min)
        return SubmititLocalPool(executor, _environments(self, settings.n_jobs))


class SubmititSlurmLauncher(WorkersLauncher):
    """One job of a SLURM cluster for each job of the sweep. ``given``: see ``SlurmSettings``."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._given = given

    def pool(self, *, under: str = "hydra.launcher") -> Pool:
        from digitlab.sweeps.workers.settings import SlurmSettings, checked_settings

        require_packages("launchers", "submitit", key="hydra/launcher", value="submitit_slurm")
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise ConfigError(
                "hydra/launcher",
                "submitit_slurm",
                "needs SLURM's sbatch and srun: use a login node of the cluster, or hydra/launcher=submitit_local",
            )
        from submitit import AutoExecutor

        settings = checked_settings(SlurmSettings, self._given, under=under)
        executor = AutoExecutor(_logs(self), cluster="slurm", slurm_max_num_timeout=settings.max_num_timeout)
        executor.update_parameters(**_parameters(settings))
        # A number of threads that the user has set counts more than the cores of the job.
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(settings.cpus_per_task)}
        return SlurmPool(executor, threads, folder=_logs(self).parent, parallel=settings.array_parallelism, under=under)


def _environments(launcher: WorkersLauncher, n_jobs: int | Literal["auto"]) -> Sequence[Mapping[str, str]]:
    cores = available_cores()
    # Runs on the CPU take no GPU, so their number depends on the cores.
    gpus = [] if OmegaConf.select(launcher.config, "trainer.accelerator") == "cpu" else visible_gpus()
    slots = slot_count(n_jobs, cores=cores, gpus=gpus)
    return [slot_environment(slot, slots=slots, cores=cores, gpus=gpus, given=os.environ) for slot in range(slots)]


def _logs(launcher: WorkersLauncher) -> Path:
    """Where submitit stores the input and output of a job; it replaces ``%j`` by the number of the job."""
    assert launcher.config is not None
    return Path(str(launcher.config.hydra.sweep.dir)).absolute() / ".submitit" / "%j"


def _parameters(settings: "SlurmSettings") -> dict[str, Any]:
    """The settings under submitit's names; options that only SLURM has get the prefix ``slurm_``."""
    common = {
        "name": "digitlab", "timeout_min": settings.timeout_min, "cpus_per_task": settings.cpus_per_task,
        "gpus_per_node": settings.gpus_per_node, "mem_gb": settings.mem_gb,
    }  # fmt: skip
    own = {
        "partition": settings.partition, "account": settings.account, "qos": settings.qos,
        "constraint": settings.constraint, "array_parallelism": settings.array_parallelism,
        "signal_delay_s": settings.signal_delay_s, "setup": settings.setup or None,
        "additional_parameters": settings.additional_parameters or None,
    }  # fmt: skip
    return {name: value for name, value in common.items() if value is not None} | {
        f"slurm_{name}": value for name, value in own.items() if value is not None
    }
