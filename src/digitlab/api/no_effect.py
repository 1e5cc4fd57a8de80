"""Rejects settings on the command line that would have no effect. The check before a run (``preflight``) calls it.

A setting without effect is nearly always a mistake: the ``-m`` is missing, or another setting switches the part off.
"""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from digitlab.core.errors import ConfigError

_SWEEP_NODES = ("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sweeper", "hydra.sweep")
_VALIDATION = ("trainer.limit_val_batches", "trainer.val_every_steps", "data.folds", "data.fold")


def refuse_sweep_settings(overrides: Sequence[str], config: DictConfig) -> None:
    """Raise ``ConfigError`` if the command describes a sweep but lacks ``-m``.

    ``overrides`` are those of the run. Those of Hydra (its launcher, for example) are read from ``config.hydra``.
    """
    for override in config.hydra.overrides.hydra:
        key, value = _split(str(override))
        if any(key == node or key.startswith(f"{node}.") for node in _SWEEP_NODES):
            raise ConfigError(key, value, "has no effect on a single run: add -m for a sweep")
    if OmegaConf.select(config, "hydra.sweeper.params"):
        # The search space comes from sweep=NAME or experiment=NAME. Without -m the run would use none of its values.
        groups = [_split(override) for override in overrides]
        key, value = next(
            (each for each in groups if each[0] in ("sweep", "experiment")), ("hydra.sweeper.params", "…")
        )
        raise ConfigError(key, value, "is a sweep: add -m")


def refuse_run_folder(config: DictConfig) -> None:
    """Raise ``ConfigError`` if a sweep is given ``hydra.run.dir``, which applies to single runs only."""
    for override in config.hydra.overrides.hydra:
        key, value = _split(str(override))
        if key == "hydra.run.dir":
            raise ConfigError(key, value, f"has no effect on a sweep: write hydra.sweep.dir={value}")


def refuse_without_effect(overrides: Sequence[str], config: DictConfig) -> None:
    """Raise ``ConfigError`` for an override of a valid ``config`` whose part another setting switches off."""
    for key, value in map(_split, overrides):
        reason = _reason(key, config)
        # null and false switch a part off, which it already is.
        if reason is not None and value not in ("null", "false"):
            raise ConfigError(key, value, f"has no effect: {reason}")


def _reason(key: str, config: DictConfig) -> str | None:
    without_validation = config.data.val_size == 0
    reasons = {
        "data.val_size is 0": key in _VALIDATION and without_validation,
        "data.folds is null": key == "data.fold" and config.data.folds is None,
        "test is none": key == "trainer.limit_test_batches" and config.test == "none",
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value
