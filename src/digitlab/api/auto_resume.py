"""``resume=auto``: which run a command goes on with. Imports no torch, unless a checkpoint must be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from digitlab.config.compose import compose
from digitlab.config.fingerprint import differences, fingerprint
from digitlab.core.errors import ConfigError, DigitlabError
from digitlab.results.folder import RunFolder, find_runs


@dataclass(frozen=True, slots=True)
class Found:
    """What to do in the place of ``resume=auto``: go on with ``run``, or where that is None run ``arguments``."""

    run: RunFolder | None
    arguments: list[str]

    @property
    def finished(self) -> bool:
        return self.run is not None and _finished(self.run)


def find(arguments: Sequence[str]) -> Found:
    """The newest run of the very configuration that ``arguments`` describe, of those with a good checkpoint.

    It is looked for where its folder would be made by default, or, with ``hydra.run.dir``, in that one folder. Raises
    ``ConfigError`` where the arguments are refused, and where that folder holds a run of another configuration.
    """
    for argument in arguments:
        if argument.startswith("-"):
            raise ConfigError("resume", "auto", f"can't be given beside {argument}: it goes on with a single run")
    overrides = [argument for argument in arguments if argument.partition("=")[0] != "resume"]
    config, folder = _composed(overrides)
    if any(override.startswith("hydra.run.dir=") for override in overrides):
        run = RunFolder(folder)
        if not run.config.exists():
            return Found(None, overrides)
        if changed := differences(run.read_config(), config):
            allowed = f"can't go on: {folder} holds a run of another configuration ({'; '.join(changed)})"
            raise ConfigError("resume", "auto", allowed)
        return Found(run, overrides)
    digest = fingerprint(config)
    # The newest first.
    runs = reversed(find_runs(folder.parent))
    return Found(next((run for run in runs if _is_of(run, digest) and _has_come_far(run)), None), overrides)


def _composed(overrides: Sequence[str]) -> tuple[DictConfig, Path]:
    """The configuration of a run, and the folder that Hydra would make for it."""
    config = compose(overrides, with_hydra=True)
    before = HydraConfig.instance().cfg
    # The folder's name asks Hydra for the names of the data set and the model.
    HydraConfig.instance().set_config(config)
    try:
        folder = Path(config.hydra.run.dir).resolve()
    finally:
        HydraConfig.instance().cfg = before
    return config, folder


def _is_of(run: RunFolder, digest: str) -> bool:
    try:
        return fingerprint(run.read_config()) == digest
    except ConfigError:
        return False


def _has_come_far(run: RunFolder) -> bool:
    """Whether there is anything to go on from: a run killed before its first checkpoint is as good as none."""
    if _finished(run):
        return True
    from digitlab.results.checkpoint import read_checkpoint

    for path in (run.last, run.previous):
        try:
            read_checkpoint(path)
            return True
        except DigitlabError:
            continue
    return False


def _finished(run: RunFolder) -> bool:
    try:
        return bool(run.read_result()["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False
