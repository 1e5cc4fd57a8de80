"""What a job of a sweep has to do: nothing where its run has finished before, else to go on from where it stands.

The same command again is how one goes on with a sweep. Nothing here imports torch, unless a checkpoint must be read.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from digitlab.config.cli_errors import command_line_overrides
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, monitored
from digitlab.sweeps.manifest import Manifest, add_missing, names_runs, run_overrides


def finish(config: DictConfig) -> float:
    """Bring the run of the running Hydra job to its end, from where it stands; the monitored value, found or made.

    Raises what ``train`` raises.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    value = finished_value(folder)
    if value is not None:
        return value
    overrides = run_overrides(command_line_overrides())
    if names_runs(HydraConfig.get().sweep):
        add_missing(folder, config, overrides)
    from digitlab.training import train

    # What the last attempt came to is no longer so.
    RunFolder(folder).result.unlink(missing_ok=True)
    config.trainer.progress_bar = False  # the sweep has one
    return train(config, folder=folder, overrides=overrides, resume=True).monitored


def finished_value(folder: Path) -> float | None:
    """The best value of the monitored metric of the run in ``folder``, or None where it has not finished.

    Only runs that the manifest beside them knows count: for these a folder stands for one configuration. One that left
    its population when that was halved has finished as far as commands go that halve; for others it is to go on.
    """
    run = RunFolder(folder)
    try:
        manifest = Manifest.read(folder.parent)
        if manifest.entry(folder.name) is None:
            return None
        result = run.read_result()
        if result.get("halved_after_epoch") is not None and not manifest.halving:
            return None
        return monitored(run, result)[1] if result["status"] == "finished" else None
    except UNREADABLE:
        return None  # the run is to be done
