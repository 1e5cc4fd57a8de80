"""Rejects settings on the command line that would have no effect. The check before a run (``preflight``) calls it.

A setting without effect is nearly always a mistake: the ``-m`` is missing, or another setting switches the part off.
"""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from digitlab.core.errors import ConfigError

_SWEEP_NODES = ("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sweeper", "hydra.sweep")
_VALIDATION_KEYS = ("trainer.limit_val_batches", "trainer.val_every_steps", "data.folds", "data.fold")


def refuse_sweep_settings(overrides: Sequence[str], config: DictConfig) -> None:
    """Raise ``ConfigError`` if the command describes a sweep but lacks ``-m``.

    ``overrides`` are those of the run. Those of Hydra (of its launcher, for example) are in ``config.hydra``.
    """
    for override in config.hydra.overrides.hydra:
        key, value = _key_and_value(str(override))
        if any(key == node or key.startswith(f"{node}.") for node in _SWEEP_NODES):
            raise ConfigError(key, value, "has no effect on a single run: add -m for a sweep")
    if OmegaConf.select(config, "hydra.sweeper.params"):
        # The search space comes from sweep=NAME or experiment=NAME. Without -m the run would use none of its values.
        pairs = map(_key_and_value, overrides)
        key, value = next((pair for pair in pairs if pair[0] in ("sweep", "experiment")), ("hydra.sweeper.params", "…"))
        raise ConfigError(key, value, "is a sweep: add -m")


def refuse_run_folder(config: DictConfig) -> None:
    """Raise ``ConfigError`` if a sweep is given ``hydra.run.dir``, which applies to single runs only."""
    for override in config.hydra.overrides.hydra:
        key, value = _key_and_value(str(override))
        if key == "hydra.run.dir":
            raise ConfigError(key, value, f"has no effect on a sweep: write hydra.sweep.dir={value}")


def refuse_without_effect(overrides: Sequence[str], config: DictConfig) -> None:
    """Raise ``ConfigError`` if another setting of the valid ``config`` switches off what an override sets."""
    for key, value in map(_key_and_value, overrides):
        reason = _reason(key, config)
        # null and false ask to switch something off that is off already, so they are no mistake.
        if reason is not None and value not in ("null", "false"):
            raise ConfigError(key, value, f"has no effect: {reason}")


def _reason(key: str, config: DictConfig) -> str | None:
    """Return the setting that makes ``key`` ineffective, or None if ``key`` has an effect."""
    without_validation = config.data.val_size == 0
    reasons = {
        "data.val_size is 0": key in _VALIDATION_KEYS and without_validation,
        "data.folds is null": key == "data.fold" and config.data.folds is None,
        "test is none": key == "trainer.limit_test_batches" and config.test == "none",
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value
