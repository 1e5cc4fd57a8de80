"""Checks the settings ``hydra.launcher.*`` of the launchers that use other processes: see ``hydra_plugins``."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from omegaconf import OmegaConf

from digitlab.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, settings, settings_from

T = TypeVar("T")


@settings
class JoblibSettings:
    """``n_jobs`` processes run at once; ``auto`` means one for each GPU, or without GPUs one for each core."""

    n_jobs: PositiveInt | Literal["auto"]


@settings
class LocalSettings:
    """``n_jobs`` processes run at once, as in ``JoblibSettings``.

    After ``timeout_min`` minutes a job saves its run and restarts, at most ``max_num_timeout`` times.
    """

    n_jobs: PositiveInt | Literal["auto"]
    timeout_min: PositiveInt
    max_num_timeout: NonNegativeInt


@settings
class SlurmSettings:
    """The resources and options of each job on a SLURM cluster. If a setting is null, the cluster decides.

    A job saves its run ``signal_delay_s`` seconds before its ``timeout_min`` minutes end, and is queued again, at most
    ``max_num_timeout`` times. At most ``array_parallelism`` jobs run at once. ``setup`` are shell commands before the
    job; ``additional_parameters`` are further options of ``sbatch``.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    timeout_min: PositiveInt
    cpus_per_task: PositiveInt
    gpus_per_node: NonNegativeInt | None
    mem_gb: PositiveFloat | None
    array_parallelism: PositiveInt
    signal_delay_s: PositiveInt
    max_num_timeout: NonNegativeInt
    setup: list[str]
    additional_parameters: dict[str, Any]


def checked_settings(cls: type[T], given: Mapping[str, Any], *, under: str) -> T:
    """Build ``cls``, a class above, from ``given``, the configuration at the key ``under``.

    Raises ``ConfigError``, which names the key, if a value is not allowed.
    """
    # Lists and mappings from the configuration are objects of OmegaConf, which the strict checks would refuse.
    values = OmegaConf.to_container(OmegaConf.create(dict(given)))
    assert isinstance(values, dict)
    return settings_from(cls, {str(name): value for name, value in values.items()}, under)
