"""Says which runs the last command of a sweep plans, from the file that Hydra writes when the command starts.

The manifest grows while the sweep runs, so it cannot say how many runs are still to come. Nothing here imports torch.
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
    """The file that Hydra writes into the folder of a sweep when its command starts."""
    return path / "multirun.yaml"


def planned_jobs(path: Path) -> set[tuple[str, ...]] | int | None:
    """The overrides of all jobs of the last command of the sweep in ``path``; for a search the number of its runs.

    None if that is not known, for instance because values were given as ``glob(*)``.
    """
    try:
        config = OmegaConf.load(command_file(path))
        assert isinstance(config, DictConfig)
        # Only glob() asks the loader, and fails without one.
        loader = cast(ConfigLoader, None)
        grid = Grid(loader, sweep_overrides(config))
        plan = search_plan(config, loader, grid)
    except (OSError, AssertionError, AttributeError, KeyError, DigitlabError, *COMPOSITION_ERRORS):
        return None
    return {tuple(run_overrides(job)) for job in grid.jobs()} if plan is None else plan.runs
