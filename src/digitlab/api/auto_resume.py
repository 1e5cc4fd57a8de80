"""``resume=auto``: finds the run that a command should continue. ``train.py`` calls it before Hydra starts.

This module imports torch only if it must read a checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from digitlab.config.compose import compose
from digitlab.config.fingerprint import differences, fingerprint
from digitlab.config.overrides import split_override
from digitlab.core.errors import ConfigError, DigitlabError
from digitlab.results.folder import RunFolder, find_runs


@dataclass(frozen=True, slots=True)
class ResumeTarget:
    """The run that ``resume=auto`` continues. If ``run`` is None, a new run starts with ``arguments``."""

    run: RunFolder | None
    arguments: list[str]

    @property
    def finished(self) -> bool:
        return self.run is not None and _finished(self.run)


def find_resume_target(arguments: Sequence[str]) -> ResumeTarget:
    """Find the newest run that has the configuration of ``arguments`` and a readable checkpoint or a result.

    Search the folder in which Hydra would create the new run folder. If ``hydra.run.dir`` is given, look only at that
    folder. Raises ``ConfigError`` if the arguments are invalid, or if ``hydra.run.dir`` holds a run with another
    configuration.
    """
    for argument in arguments:
        if argument.startswith("-"):
            raise ConfigError("resume", "auto", f"can't be combined with {argument}: it resumes a single run")
    overrides = [argument for argument in arguments if argument.partition("=")[0] != "resume"]
    config, folder = _compose_with_folder(overrides)
    # The user named the folder, so a run with other settings there is a mistake, not one of many to choose from.
    if any(split_override(override)[0] == "hydra.run.dir" for override in overrides):
        run = RunFolder(folder)
        if not run.config.exists():
            return ResumeTarget(None, overrides)
        if changed := differences(run.read_config(), config):
            reason = f"can't resume: {folder} holds a run of another configuration ({'; '.join(changed)})"
            raise ConfigError("resume", "auto", reason)
        return ResumeTarget(run, overrides)
    # ``find_runs`` lists the runs in the order in which they were started.
    digest = fingerprint(config)
    newest_first = reversed(find_runs(folder.parent))
    newest = next((run for run in newest_first if _has_fingerprint(run, digest) and _is_resumable(run)), None)
    return ResumeTarget(newest, overrides)


def _compose_with_folder(overrides: Sequence[str]) -> tuple[DictConfig, Path]:
    """Return the configuration of a run, and the folder that Hydra would create for it."""
    config = compose(overrides, with_hydra=True)
    outer_config = HydraConfig.instance().cfg
    # The folder name contains the names of the data set and the model, which are looked up in HydraConfig.
    HydraConfig.instance().set_config(config)
    try:
        folder = Path(config.hydra.run.dir).resolve()
    finally:
        HydraConfig.instance().cfg = outer_config
    return config, folder


def _has_fingerprint(run: RunFolder, digest: str) -> bool:
    try:
        return fingerprint(run.read_config()) == digest
    except ConfigError:
        return False  # a run of an older version, or a damaged folder: neither is what the command describes


def _is_resumable(run: RunFolder) -> bool:
    """Whether the run has finished or has a readable checkpoint. A run without one would start from the beginning."""
    if _finished(run):
        return True
    # Imports torch, which takes seconds. Commands whose run has finished end without it.
    from digitlab.results.checkpoint import read_checkpoint

    # A run keeps its previous checkpoint in case the newest one is damaged.
    for path in (run.last, run.previous):
        try:
            read_checkpoint(path)
            return True
        except DigitlabError:
            continue
    return False


def _finished(run: RunFolder) -> bool:
    try:
        # A stopped or failed run has a result as well; only a finished one has nothing left to do.
        return bool(run.read_result()["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False
