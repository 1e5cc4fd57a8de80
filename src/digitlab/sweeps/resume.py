"""Decides what a job of a sweep has to do: nothing if its run has finished, or else resume the run.

Giving the same command again resumes a sweep. Nothing here imports torch, unless a checkpoint must be read.
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

    # The result of the last attempt (failed or stopped) is outdated. If this attempt is killed, no result may say
    # that the run failed, or the sweep would count it as ended.
    RunFolder(folder).result.unlink(missing_ok=True)
    config.trainer.progress_bar = False  # the sweep draws its own
    return train(config, folder=folder, overrides=overrides, resume=True).monitored


def finished_value(folder: Path) -> float | None:
    """The monitored value of the run in ``folder``, or None if it has not finished.

    Only a run in the manifest next to it counts, because only then does the folder belong to one configuration. A run
    that halving ended has finished for a command that halves; any other command trains it to its end.
    """
    run = RunFolder(folder)
    try:
        manifest = Manifest.read(folder.parent)
        if manifest.entry(folder.name) is None:
            return None
        result = run.read_result()
        # Without halving, the user asks for the whole run, so a shortened one must continue.
        if result.get("halved_after_epoch") is not None and not manifest.halving:
            return None
        return monitored(run, result)[1] if result["status"] == "finished" else None
    except UNREADABLE:
        return None  # a missing or damaged file means that the run is not finished
