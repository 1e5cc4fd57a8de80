"""Implements ``resume=FOLDER``: continues a run in its folder, with the configuration stored there."""

import math
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from digitlab.config.compose import add_missing_defaults, compose
from digitlab.core.errors import ConfigError
from digitlab.core.logging import log_to
from digitlab.core.ranks import is_first_process
from digitlab.data.chunks import Position
from digitlab.results.checkpoint import newest_usable_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.lock import lock_folder, unlock_folder
from digitlab.training.checkpointing import saved_position
from digitlab.training.experiment import Experiment
from digitlab.training.run import Outcome, train

# The keys that the options of conf/trainer/ set. trainer=gpu changes only these keys of a resumed run.
_DEVICE_KEYS = ("accelerator", "devices", "strategy")
# The only other key that can be changed: the length of the run.
_LENGTH_KEY = "trainer.max_epochs"


def resume(folder: str, arguments: Sequence[str]) -> Outcome:
    """Continue the run in ``folder``. A run that was stopped before its first checkpoint starts from the beginning.

    ``arguments`` are those of the command line: ``resume``, and optionally ``trainer.max_epochs`` and ``trainer``.
    Raises ``ConfigError`` for any other argument, or if ``folder`` is not a run folder, and what ``train`` raises.
    """
    run_folder = RunFolder(Path(folder).resolve())
    # The settings come from the stored configuration and not from conf/, so that an update of digitlab does not change
    # the run. Only a setting that the stored configuration lacks gets its default.
    try:
        config = add_missing_defaults(run_folder.read_config())
    except ConfigError as error:
        raise ConfigError("resume", folder, error.allowed) from error
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "resume":
            continue
        # Options of Hydra, such as -m or --cfg, would be ignored: Hydra does not start this run.
        if argument.startswith("-"):
            raise ConfigError("resume", folder, f"can't be combined with {argument}: it continues a single run")
        _override(config, key, value, argument)
    if is_first_process():
        lock_folder(run_folder)  # before its configuration changes; ``train`` releases the lock
    try:
        overrides = _store_new_length(run_folder, config, arguments)
    except BaseException:
        # ``train`` has not begun, so it does not unlock the folder. In a notebook the process lives on after an error,
        # also after Ctrl-C, and the folder would stay locked for others.
        unlock_folder(run_folder)
        raise
    with log_to(run_folder.log):
        return train(config, folder=run_folder.path, overrides=overrides, resume=True)


def _store_new_length(run_folder: RunFolder, config: DictConfig, arguments: Sequence[str]) -> list[str]:
    """Store a new ``trainer.max_epochs`` in the run folder, if there is one; return the run's overrides with it.

    It is stored so that the next ``resume=FOLDER`` trains up to it as well, if the run is stopped again.
    """
    overrides = run_folder.read_overrides()
    # If the user gives the key twice, the last value counts, as in Hydra.
    length_overrides = [argument for argument in arguments if argument.startswith(f"{_LENGTH_KEY}=")]
    if length_overrides:
        experiment = Experiment.from_config(config, typed=[*overrides, *arguments])
        # ``config`` may have another device, which is not stored: the next machine may not have that device. So only
        # the length is changed in the stored configuration.
        stored_config = run_folder.read_config()
        _check_length(run_folder, experiment, former_epochs=stored_config.trainer.max_epochs)
        other_overrides = [override for override in overrides if not override.startswith(f"{_LENGTH_KEY}=")]
        overrides = [*other_overrides, length_overrides[-1]]
        stored_config.trainer.max_epochs = config.trainer.max_epochs
        run_folder.write_config(stored_config, overrides)
    return overrides


def _check_length(run_folder: RunFolder, experiment: Experiment, *, former_epochs: int) -> None:
    """Raise ``ConfigError`` if the resumed run would differ from a run that had the new length from the beginning.

    The configuration and the command in the folder must describe its results. They would not if the run had trained for
    longer already, or if its updates so far had used other learning rates than a run of the new length.
    """
    epochs = experiment.trainer.max_epochs
    if epochs == former_epochs:
        return
    checkpoint = newest_usable_checkpoint(run_folder, hyper_parameters=experiment.hyper_parameters)
    # Without a checkpoint the run starts from the beginning, and then any length is possible.
    if checkpoint is None:
        return
    position = saved_position(checkpoint)
    # ``position.epoch`` counts complete epochs. If the run has begun another one, it has reached that one.
    reached = position.epoch + (position.step > 0)
    if epochs < reached:
        raise ConfigError(
            _LENGTH_KEY, epochs, f"must be at least {reached}, because the run has reached epoch {reached}"
        )
    if _learning_rates_differ(experiment, position, former_epochs):
        name = type(experiment.parts.schedule).__name__
        allowed = (
            f"must stay {former_epochs}: the schedule {name} depends on it, and the run has trained {reached} epochs;"
            " start a new run instead"
        )
        raise ConfigError(_LENGTH_KEY, epochs, allowed)


def _learning_rates_differ(experiment: Experiment, position: Position, former_epochs: int) -> bool:
    """Return whether an update before ``position`` would have another learning rate with the new length."""
    settings, schedule = experiment.trainer, experiment.parts.schedule
    # The number of steps in an epoch follows from those of all finished epochs. In the first epoch it is not known
    # without the data. Any number will do there, because it only must show whether the schedule depends on the total.
    finished_steps = position.total_steps - position.step
    steps_per_epoch = finished_steps // position.epoch if position.epoch else max(position.step, 1)

    def factor(step: int, epochs: int) -> float:
        """Return the factor of the learning rate at ``step`` in a run of ``epochs`` epochs."""
        all_steps = epochs * steps_per_epoch
        total_steps = min(all_steps, settings.max_steps or all_steps)
        return schedule.factor(step, steps_per_epoch=steps_per_epoch, total_steps=total_steps)

    # A long run has millions of updates. A thousand of them are enough to tell two curves apart.
    steps = range(0, position.total_steps, max(position.total_steps // 1000, 1))
    return any(not math.isclose(factor(step, former_epochs), factor(step, settings.max_epochs)) for step in steps)


def _override(config: DictConfig, key: str, value: str, argument: str) -> None:
    """Change ``config`` as ``argument``, which is ``key=value``, says. Raises ``ConfigError`` for other keys."""
    if key not in ("trainer", _LENGTH_KEY):
        raise ConfigError(
            key,
            value or argument,
            "can't be combined with resume=: only trainer.max_epochs and trainer= can be changed",
        )
    # Composed as for a new run, so that the argument is checked, and trainer=gpu sets the same values.
    composed_trainer = compose([argument]).trainer
    keys = _DEVICE_KEYS if key == "trainer" else ("max_epochs",)
    for name in keys:
        config.trainer[name] = composed_trainer[name]
