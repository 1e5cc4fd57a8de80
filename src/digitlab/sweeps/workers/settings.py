"""``hydra.launcher.*`` of the launchers that run jobs in other processes, checked."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

from omegaconf import OmegaConf
from pydantic import ValidationError

from digitlab.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, refusal, settings
from digitlab.core.errors import ConfigError

T = TypeVar("T")


@settings
class JoblibSettings:
    """``n_jobs``: processes at once; ``auto`` is one a GPU, and one a core where there is no GPU."""

    n_jobs: PositiveInt | Literal["auto"]


@settings
class LocalSettings:
    """Jobs at once as in ``JoblibSettings``; after ``timeout_min`` a job is saved and goes on anew."""

    n_jobs: PositiveInt | Literal["auto"]
    timeout_min: PositiveInt
    max_num_timeout: NonNegativeInt


@settings
class SlurmSettings:
    """What a job asks the cluster for. Null leaves it to the cluster; ``max_num_timeout`` is how often it may go on.

    ``additional_parameters`` are any others of ``sbatch``; ``setup`` are lines of shell before the job.
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
    """``cls(**given)``, where ``under`` is the config key of ``given``. Raises ``ConfigError``."""
    values = OmegaConf.to_container(OmegaConf.create(dict(given)))
    assert isinstance(values, dict)
    try:
        return cls(**{str(name): value for name, value in values.items()})
    except ValidationError as error:
        raise refusal(error, of=cls, given=given).under(under) from error


def require(library: str, launcher: str) -> None:
    """Raise ``ConfigError`` where the ``library`` of ``launcher`` is not installed."""
    if find_spec(library) is None:
        raise ConfigError("hydra/launcher", launcher, f"needs {library}: pip install 'digitlab[launchers]'")
