"""``resume=FOLDER``: go on with a run from its own configuration, in its own folder."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from digitlab.config.compose import add_missing_defaults, compose
from digitlab.core.errors import ConfigError
from digitlab.core.logging import log_to
from digitlab.core.ranks import is_first_process
from digitlab.results.folder import RunFolder
from digitlab.results.lock import take
from digitlab.training.experiment import Experiment
from digitlab.training.run import Outcome, train

# What a group of conf/trainer decides; the rest of `trainer` stays as it was.
_DEVICE_KEYS = ("accelerator", "devices", "strategy")
_LENGTH = "trainer.max_epochs"


def resume(folder: str, arguments: Sequence[str]) -> Outcome:
    """Go on with the run in ``folder``; a run that was stopped before its first checkpoint starts from the beginning.

    ``arguments`` are those of the command line: beside ``resume`` only ``trainer.max_epochs`` and ``trainer`` may be
    among them. Raises ``ConfigError`` for any other, or where ``folder`` is no run folder, and what ``train`` raises.
    """
    run_folder = RunFolder(Path(folder).resolve())
    try:
        config = add_missing_defaults(run_folder.read_config())
    except ConfigError as error:
        raise ConfigError("resume", folder, error.allowed) from error
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "resume":
            continue
        if argument.startswith("-"):
            raise ConfigError("resume", folder, f"can't be given beside {argument}: it goes on with a single run")
        _override(config, key, value, argument)
    if is_first_process():
        take(run_folder)  # before its configuration is changed; ``train`` gives it back
    overrides = _lengthened(run_folder, config, arguments)
    with log_to(run_folder.log):
        return train(config, folder=run_folder.path, overrides=overrides, resume=True)


def _lengthened(run_folder: RunFolder, config: DictConfig, arguments: Sequence[str]) -> list[str]:
    """The overrides of the run with its new length, which its folder remembers: stopped again, it goes on to there."""
    overrides = run_folder.read_overrides()
    lengths = [argument for argument in arguments if argument.startswith(f"{_LENGTH}=")]
    if lengths:
        Experiment.from_config(config, typed=[*overrides, *arguments])
        overrides = [*(each for each in overrides if not each.startswith(f"{_LENGTH}=")), lengths[-1]]
        # Not the device: that is a matter of the machine.
        lasting = run_folder.read_config()
        lasting.trainer.max_epochs = config.trainer.max_epochs
        run_folder.write_config(lasting, overrides)
    return overrides


def _override(config: DictConfig, key: str, value: str, argument: str) -> None:
    if key not in ("trainer", _LENGTH):
        raise ConfigError(
            key, value or argument, "can't be given beside resume=: only trainer.max_epochs and trainer= can be changed"
        )
    composed = compose([argument]).trainer
    keys = _DEVICE_KEYS if key == "trainer" else ("max_epochs",)
    for name in keys:
        config.trainer[name] = composed[name]
