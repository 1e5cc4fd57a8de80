"""Rejects settings on the command line that would have no effect. The check before a run (``preflight``) calls it.

A setting without effect is nearly always a mistake: the ``-m`` is missing, or another setting switches the part off.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from digitlab.config.overrides import split_override
from digitlab.core.errors import ConfigError, show

# Only a sweep uses these parts of Hydra's configuration. hydra/launcher chooses an option, hydra.launcher is its node.
_SWEEP_NODES = ("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sweeper", "hydra.sweep")
_MILESTONES = "scheduler.milestones_epochs"


@dataclass(frozen=True, slots=True)
class _Rule:
    """``keys`` have no effect if ``is_off(config)``, which depends on the key ``switch``."""

    keys: tuple[str, ...]
    switch: str
    is_off: Callable[[DictConfig], bool]
    reason: str


_RULES = (
    _Rule(
        ("trainer.limit_val_batches", "trainer.val_every_steps", "data.folds", "data.fold"),
        "data.val_size", lambda config: config.data.val_size == 0, "data.val_size is 0",
    ),
    _Rule(("data.fold",), "data.folds", lambda config: config.data.folds is None, "data.folds is null"),
    _Rule(
        ("data.val_size",), "data.folds", lambda config: config.data.folds is not None,
        "data.folds decides how many images validate",
    ),
    _Rule(("trainer.limit_test_batches",), "test", lambda config: config.test == "none", "test is none"),
    _Rule(
        ("optimizer.decay_layers",), "optimizer.weight_decay",
        lambda config: not config.optimizer.weight_decay and not config.optimizer.get("sgd_weight_decay"),
        "optimizer.weight_decay is 0",
    ),
)  # fmt: skip


def refuse_sweep_settings(overrides: Sequence[str], config: DictConfig) -> None:
    """Raise ``ConfigError`` if the command describes a sweep but lacks ``-m``.

    ``overrides`` are those of the run. Those of Hydra (of its launcher, for example) are in ``config.hydra``.
    """
    for override in config.hydra.overrides.hydra:
        key, value = split_override(str(override))
        if any(key == node or key.startswith(f"{node}.") for node in _SWEEP_NODES):
            raise ConfigError(key, value, "has no effect on a single run: add -m for a sweep")
    if OmegaConf.select(config, "hydra.sweeper.params"):
        # The search space comes from sweep=NAME or experiment=NAME. Without -m the run would use none of its values.
        pairs = map(split_override, overrides)
        key, value = next((pair for pair in pairs if pair[0] in ("sweep", "experiment")), ("hydra.sweeper.params", "…"))
        raise ConfigError(key, value, "is a sweep: add -m")


def refuse_run_folder(config: DictConfig) -> None:
    """Raise ``ConfigError`` if a sweep is given ``hydra.run.dir``, which applies to single runs only."""
    for override in config.hydra.overrides.hydra:
        key, value = split_override(str(override))
        if key == "hydra.run.dir":
            raise ConfigError(key, value, f"has no effect on a sweep: write hydra.sweep.dir={value}")


def refuse_empty_folders(overrides: Sequence[str]) -> None:
    """Raise ``ConfigError`` for a folder without a name, which would be the current folder."""
    for key, value in map(split_override, overrides):
        if key in ("data.root", "hydra.run.dir", "hydra.sweep.dir") and value.strip("'\" ") == "":
            raise ConfigError(key, value, f"must be a folder: the current one is written {key}=.")


def refuse_without_effect(overrides: Sequence[str], config: DictConfig, *, swept: Collection[str] = ()) -> None:
    """Raise ``ConfigError`` if another setting of the valid ``config`` switches off what an override sets.

    For a sweep, ``config`` is the configuration of one job; another job may have another value of the ``swept`` keys.
    """
    for key, value in map(split_override, overrides):
        for rule in _RULES:
            # null and false ask to switch something off that is off already, so they are no mistake.
            if key not in rule.keys or rule.switch in swept or value in ("null", "false"):
                continue
            if rule.is_off(config):
                raise ConfigError(key, value, f"has no effect: {rule.reason}")


def notes_without_effect(overrides: Sequence[str], config: DictConfig) -> list[str]:
    """Return a line for each override of a valid ``config`` that changes nothing in a run of this length.

    These are no errors, because ``debug=fast`` and other short runs have them.
    """
    notes = notes_on_repeated(overrides)
    last_overrides = {split_override(override)[0]: override for override in overrides}
    epochs, stopping = config.trainer.max_epochs, config.early_stopping
    milestones = config.scheduler.get("milestones_epochs")
    late_milestones = milestones and min(milestones) >= epochs
    long_patience = stopping is not None and stopping.unit == "epochs" and stopping.patience >= epochs
    for override in overrides:
        key, reason = split_override(override)[0], None
        if late_milestones and override in ("scheduler=steps", last_overrides.get(_MILESTONES)):
            reason = f"scheduler.milestones_epochs={show(milestones)} are not before the end"
        if long_patience and key == "early_stopping.patience":
            reason = "no run of this length waits so long"
        if reason is not None:
            notes.append(f"{override}: has no effect, because {reason}: trainer.max_epochs is {epochs}")
    return notes


def notes_on_repeated(overrides: Sequence[str]) -> list[str]:
    """Return a line for each override whose key a later override sets to another value."""
    last_overrides = {split_override(override)[0]: override for override in overrides}
    later = [(override, last_overrides[split_override(override)[0]]) for override in overrides]
    return [f"{override}: has no effect, because {last} follows" for override, last in later if override != last]


def notes_on_lost_values(overrides: Sequence[str]) -> list[str]:
    """Return the lines of ``notes_on_repeated`` about overrides with several values: these runs of a sweep are lost."""
    parser = OverridesParser.create()
    return [
        note
        for note in notes_on_repeated(overrides)
        if parser.parse_override(note.partition(": has no effect")[0]).is_sweep_override()
    ]
