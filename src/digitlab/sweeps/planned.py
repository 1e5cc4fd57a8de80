"""Reads which runs the last command of a sweep plans, from the file that Hydra writes when the command starts.

``digitlab watch`` uses it: the manifest, the list of runs in the sweep's folder, grows while a sweep runs, so it cannot
say how many runs are to come. Nothing here imports torch.
"""

from pathlib import Path
from typing import cast

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from digitlab.config.compose import COMPOSITION_ERRORS
from digitlab.core.errors import DigitlabError
from digitlab.sweeps.jobs import Grid, sweep_overrides
from digitlab.sweeps.manifest import run_overrides
from digitlab.sweeps.search.settings import search_plan


def command_file(path: Path) -> Path:
    """Return the file that Hydra writes into the folder of a sweep when its command starts."""
    return path / "multirun.yaml"


def planned_jobs(path: Path) -> set[tuple[str, ...]] | int | None:
    """Return the overrides of all jobs of the last command of the sweep in ``path``.

    If it was a search, which chooses its jobs later, return the number of its runs. Return None if that is not known,
    for example because values were given as ``glob(*)``.
    """
    try:
        config = OmegaConf.load(command_file(path))
        assert isinstance(config, DictConfig)
        # There is no loader here. Only glob() needs one, and its error is caught below.
        loader = cast(ConfigLoader, None)
        grid = Grid(loader, sweep_overrides(config))
        plan = search_plan(config, loader, grid)
    except (OSError, AssertionError, AttributeError, KeyError, DigitlabError, *COMPOSITION_ERRORS):
        return None
    return {tuple(run_overrides(job)) for job in grid.jobs()} if plan is None else plan.runs
