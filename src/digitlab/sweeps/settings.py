"""Checks the settings ``sweep.*``; ``api.preflight`` calls it before a sweep starts."""

from collections.abc import Sequence
from typing import Any, Literal

from omegaconf import DictConfig

from digitlab.config.overrides import split_override
from digitlab.config.schema import PositiveInt, settings, settings_from
from digitlab.core.errors import ConfigError
from digitlab.population.halving import halving_epochs
from digitlab.sweeps.manifest import folder_name, run_overrides


@settings
class SweepSettings:
    """The settings of a sweep.

    ``name`` names its folder. By default the name is made from the command, so that the same command finds its sweep.
    ``fresh`` starts a new sweep next to the existing one. ``dry_run`` shows what would run and runs nothing; ``all``
    lists every run. With ``halving``, the worse half of a population, which is a group of runs that train together,
    stops after each of ``halving_epochs``. With ``allow_divergence``, a run whose loss stops being finite does not make
    the sweep fail.
    """

    name: str | None
    fresh: bool
    dry_run: bool | Literal["all"]
    halving: bool
    halving_epochs: list[PositiveInt] | None
    allow_divergence: bool

    def __post_init__(self) -> None:
        # The name becomes that of a folder, so it must be valid on every operating system.
        if self.name is not None and (not self.name or folder_name(self.name) != self.name):
            allowed = "must be a name of at most 100 letters, digits and .,=+-_ that does not start or end with . or -"
            raise ConfigError("name", self.name, allowed)
        if self.halving_epochs is not None and not self.halving:
            raise ConfigError("halving_epochs", self.halving_epochs, "needs sweep.halving=true")

    def check_halving(self, config: DictConfig) -> None:
        """Raise ``ConfigError`` if the launcher or the epochs in ``config`` don't allow halving."""
        if not self.halving:
            return
        # Only the launcher ``vectorized`` has this key. It trains runs together, so halving can compare them.
        max_members = config.hydra.launcher.get("max_members")
        if max_members is None or max_members == 1:
            allowed = "halves populations: use hydra/launcher=vectorized"
            if max_members == 1:
                allowed = "halves populations: set hydra.launcher.max_members to auto, or to 2 or more"
            raise ConfigError("sweep.halving", True, allowed)
        # A swept number of epochs is not known here, so each job checks its own.
        if isinstance(config.trainer.max_epochs, int):
            halving_epochs(self.halving_epochs, config.trainer.max_epochs)


def sweep_settings(node: dict[str, Any], typed: Sequence[str]) -> SweepSettings:
    """Check ``node``, the configuration at the key ``sweep``.

    ``typed`` are the overrides of keys below ``hydra``, some of which conflict with it. Raises ``ConfigError`` for an
    invalid or conflicting setting.
    """
    checked = settings_from(SweepSettings, node, "sweep")
    # Some of Hydra's own settings contradict the manifest or the settings ``sweep.*``.
    for override in typed:
        key, value = split_override(override)
        if key == "hydra.sweep.subdir":
            raise ConfigError(key, value, "can't be set: the manifest of the sweep names the folders of its runs")
        if key == "hydra.sweeper.max_batch_size" and value != "null":
            raise ConfigError(
                key, value, "must be null: with batches, a failed job would keep all later batches from running"
            )
        if key == "hydra.sweep.dir" and (checked.name is not None or checked.fresh):
            raise ConfigError(
                key,
                value,
                "can't be combined with sweep.name or sweep.fresh, which also choose the folder: give only one of them",
            )
    return checked


def refuse_without_sweep(overrides: Sequence[str]) -> None:
    """Raise ``ConfigError`` if a single run has overrides of a sweep: usually the user has forgotten ``-m``."""
    for override in overrides:
        # ``run_overrides`` drops the overrides of a sweep.
        if not run_overrides([override]):
            raise ConfigError(*split_override(override), "is a setting of a sweep: add -m to the command")
