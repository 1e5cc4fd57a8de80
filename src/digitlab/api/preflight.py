"""The check of a composed configuration before Hydra makes a folder for it: a bad one leaves nothing behind.

Hydra imports and calls it at the start of a run or a sweep (``callbacks.preflight`` in ``conf/hydra/digitlab.yaml``).
The values of a sweep are checked job by job, at the head of ``train()``: a bad one fails alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from digitlab.config.cli_errors import command_line_overrides
from digitlab.config.compose import COMPOSITION_ERRORS, plain, refused
from digitlab.core.errors import ConfigError, DigitlabError
from digitlab.core.exit import exit_with
from digitlab.results.folder import RunFolder
from digitlab.results.lock import take
from digitlab.sweeps.jobs import Grid, sweep_overrides
from digitlab.sweeps.search.settings import SearchPlan, search_plan
from digitlab.sweeps.session import Session, begin
from digitlab.sweeps.settings import refuse_without_sweep, sweep_settings


class Preflight(Callback):
    """Ends the process with one line on stderr where the configuration is refused.

    By ``exit_with``, as of any exception but ``SystemExit`` Hydra makes a warning and goes on.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Imported here, as Hydra makes this object for --help too, which must answer without torch.
        from digitlab.core.ranks import is_first_process
        from digitlab.training.experiment import Experiment

        # Hydra's next step too; the name of the folder asks it for the names of the data set and the model.
        HydraConfig.instance().set_config(config)
        try:
            refuse_without_sweep(command_line_overrides(config.hydra))
            Experiment.from_config(config)
            _refuse_taken(config.hydra.run.dir)
            _make_folder("hydra.run.dir", config.hydra.run.dir)
            if is_first_process():
                take(RunFolder(Path(config.hydra.run.dir)), new=True)  # ``train`` gives it back
        except DigitlabError as error:
            exit_with(error)

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)
        loader = GlobalHydra.instance().config_loader()
        job = overrides = sweep_overrides(config)
        try:
            grid = Grid(loader, overrides)
            for job in grid.shapes():
                composed = loader.load_configuration(config_name, job, run_mode=RunMode.RUN)
                if OmegaConf.select(composed, "trainer.strategy") == "ddp":
                    allowed = "can't be swept with -m: each of its processes would launch the whole sweep"
                    raise ConfigError("trainer.strategy", "ddp", allowed)
            sweep = sweep_settings(plain(config.sweep, "sweep"), config.hydra.overrides.hydra)
            sweep.check_halving(config)
            folder = Path(config.hydra.sweep.dir)
            plan = search_plan(config, loader, grid)
            if not sweep.dry_run:
                _make_folder("hydra.sweep.dir", config.hydra.sweep.dir)
                jobs, most = (grid.jobs(), None) if plan is None else (None, plan.runs)
                begin(Session(folder, grid.keys, jobs, most=most, halving=sweep.halving))
                return
            _dry_run(folder, plan or grid.jobs(), config_name, config.hydra.launcher)
        except COMPOSITION_ERRORS as error:
            exit_with(refused(error, job))
        except DigitlabError as error:
            exit_with(error)
        sys.exit(0)


def _dry_run(
    folder: Path, plan: SearchPlan | Sequence[Sequence[str]], config_name: str | None, launcher: DictConfig
) -> None:
    from digitlab.sweeps.dry_run import dry_run, dry_run_search

    loader = GlobalHydra.instance().config_loader()
    if isinstance(plan, SearchPlan):
        dry_run_search(folder, plan, loader, config_name)
    else:
        dry_run(folder, plan, loader, config_name, launcher=launcher)


def _refuse_taken(folder: str) -> None:
    run = RunFolder(Path(folder))
    if run.result.exists() or run.last.exists():
        raise ConfigError("hydra.run.dir", folder, f"holds a run: choose another, or go on with it by resume={folder}")


def _make_folder(key: str, folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(key, folder, f"can't be made: {error.strerror}") from error
