"""Trains the run of one job of a sweep to its end. If the run has finished before, there is nothing to do.

So the same command resumes a sweep. ``train.py`` and the launchers use it. This module imports torch only to train. The
manifest is the file in the sweep's folder that lists its runs.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from digitlab.config.cli_errors import command_line_overrides
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, monitored
from digitlab.sweeps.manifest import Manifest, add_missing, names_runs, run_overrides


def complete_run(config: DictConfig) -> float:
    """Train the run of the current Hydra job to its end, from its last checkpoint; return the monitored value.

    Returns at once if the run has finished before. Raises what ``train`` raises.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    value = finished_value(folder)
    if value is not None:
        return value
    overrides = run_overrides(command_line_overrides())
    if names_runs(HydraConfig.get().sweep):
        add_missing(folder, config, overrides)
    from digitlab.training import train

    # The result of the last attempt, which failed or was stopped, is outdated. If it stayed and this attempt were
    # killed, the sweep would count the run as failed.
    RunFolder(folder).result.unlink(missing_ok=True)
    config.trainer.progress_bar = False  # the sweep has a progress line of its own
    return train(config, folder=folder, overrides=overrides, resume=True).monitored


def finished_value(folder: Path) -> float | None:
    """Return the monitored value of the run in ``folder``, or None if it has not finished.

    The run must be in the manifest next to it; otherwise the folder may belong to another configuration. A run that
    halving ended counts as finished only if the last command also used halving.
    """
    run = RunFolder(folder)
    try:
        manifest = Manifest.read(folder.parent)
        if manifest.entry(folder.name) is None:
            return None
        result = run.read_result()
        # Without halving (``sweep.halving``, which ends the worse runs early), the user asks for the whole run, so a
        # shortened one must continue.
        if result.get("halved_after_epoch") is not None and not manifest.halving:
            return None
        return monitored(run, result)[1] if result["status"] == "finished" else None
    except UNREADABLE:
        return None  # a missing or damaged file means that the run is not finished
