"""Implements ``resume=FOLDER``: continues a run in its folder, with the configuration stored there."""

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

# The keys that the options of conf/trainer/ set. trainer=gpu changes only these keys of a resumed run.
_DEVICE_KEYS = ("accelerator", "devices", "strategy")
_LENGTH = "trainer.max_epochs"


def resume(folder: str, arguments: Sequence[str]) -> Outcome:
    """Continue the run in ``folder``. A run that was stopped before its first checkpoint starts from the beginning.

    ``arguments`` are those of the command line: ``resume``, and optionally ``trainer.max_epochs`` and ``trainer``.
    Raises ``ConfigError`` for any other argument, or if ``folder`` is not a run folder, and what ``train`` raises.
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
        take(run_folder)  # before its configuration changes; ``train`` releases the lock
    overrides = _lengthened(run_folder, config, arguments)
    with log_to(run_folder.log):
        return train(config, folder=run_folder.path, overrides=overrides, resume=True)


def _lengthened(run_folder: RunFolder, config: DictConfig, arguments: Sequence[str]) -> list[str]:
    """Store a new length in the run folder and return the run's overrides with it.

    The folder must remember the length: if the run is stopped again, plain ``resume=FOLDER`` trains up to it.
    """
    overrides = run_folder.read_overrides()
    lengths = [argument for argument in arguments if argument.startswith(f"{_LENGTH}=")]
    if lengths:
        Experiment.from_config(config, typed=[*overrides, *arguments])
        overrides = [*(each for each in overrides if not each.startswith(f"{_LENGTH}=")), lengths[-1]]
        # The device is not stored: the next machine may have another one.
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
