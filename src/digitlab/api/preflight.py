"""Checks the composed configuration before Hydra creates a folder, so that a rejected command leaves nothing behind.

Hydra imports and calls the class ``Preflight`` at the start of a run or sweep (``callbacks.preflight`` in
``conf/hydra/digitlab.yaml``). At the start of a sweep it checks which keys exist, and the values that all jobs share.
The swept values are checked at the start of each job, so that a wrong one fails only its own job. With
``sweep.dry_run`` it also makes the dry run.
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

from digitlab.api.early_checks import check_values
from digitlab.api.no_effect import (
    notes_on_lost_values,
    notes_without_effect,
    refuse_empty_folders,
    refuse_run_folder,
    refuse_sweep_settings,
    refuse_without_effect,
)
from digitlab.api.sweep_checks import check_shared_settings
from digitlab.config.cli_errors import command_line_overrides
from digitlab.config.compose import COMPOSITION_ERRORS, composition_error, plain
from digitlab.config.overrides import split_override
from digitlab.core.errors import ConfigError, DigitlabError
from digitlab.core.exit import exit_with
from digitlab.core.files import disk_faults, require_text, short_path, write_failure
from digitlab.results.folder import RunFolder
from digitlab.results.lock import lock_folder
from digitlab.results.run_hints import nearby_runs
from digitlab.sweeps.job_composer import compose_job
from digitlab.sweeps.jobs import Grid, sweep_overrides
from digitlab.sweeps.search.settings import SearchPlan, search_plan
from digitlab.sweeps.session import SweepSession, start_sweep
from digitlab.sweeps.settings import SweepSettings, refuse_without_sweep, sweep_settings

# The search for other runs in the folder of a new one takes no longer.
_SEARCH_SECONDS = 0.3


class Preflight(Callback):
    """Ends the process with one line on stderr if the configuration is invalid.

    Errors end the process through ``exit_with``, because Hydra turns every exception of a callback except
    ``SystemExit`` into a warning and continues.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra creates this object for --cfg, too, which must not import torch. So the import is here.
        from digitlab.core.ranks import is_first_process

        # Hydra does the same in its next step. Here it is needed earlier, to resolve the folder names below.
        HydraConfig.instance().set_config(config)
        try:
            with disk_faults("the folder of the run"):
                overrides = command_line_overrides(config.hydra)
                refuse_empty_folders([*overrides, *config.hydra.overrides.hydra])
                refuse_sweep_settings(overrides, config)
                refuse_without_sweep(overrides)
                check_values(config)
                # Imported here, so that the errors above do not wait for torch.
                from digitlab.training.experiment import Experiment

                Experiment.from_config(config)
                refuse_without_effect(overrides, config)
                _refuse_inside_run("hydra.run.dir", config.hydra.run.dir)
                _refuse_existing_run(config.hydra.run.dir)
                _make_folder("hydra.run.dir", config.hydra.run.dir)
                if is_first_process():
                    for note in notes_without_effect(overrides, config):
                        print(note, file=sys.stderr)
                    lock_folder(RunFolder(Path(config.hydra.run.dir)), new=True)  # ``train`` unlocks it
        except DigitlabError as error:
            exit_with(_explain_experiment(error, command_line_overrides(config.hydra)))

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)
        loader = GlobalHydra.instance().config_loader()
        overrides = sweep_overrides(config)
        checked_job = overrides  # the overrides that Hydra composes now, for its errors
        try:
            with disk_faults("the folder of the sweep"):
                grid = Grid(loader, overrides)  # all values of each key
                composed: list[DictConfig] = []
                for checked_job in grid.group_combinations():
                    composed.append(loader.load_configuration(config_name, checked_job, run_mode=RunMode.RUN))
                    _check_combination(checked_job, composed[-1], grid)
                sweep = sweep_settings(plain(config.sweep, "sweep"), config.hydra.overrides.hydra)
                sweep.check_halving(config)
                refuse_empty_folders([*command_line_overrides(config.hydra), *config.hydra.overrides.hydra])
                refuse_run_folder(config)
                folder = Path(config.hydra.sweep.dir)
                plan = search_plan(config, loader, grid)  # None if the sweep is no search
                # The first combination has the first value of every key, as the first job has.
                check_shared_settings(
                    composed[0], lambda: compose_job(loader, config_name, grid.jobs()[-1]), overrides, swept=grid.keys
                )
                for note in notes_on_lost_values(command_line_overrides(config.hydra)):
                    print(note, file=sys.stderr)
                if plan is None and not grid.keys:
                    # The user has probably forgotten a list of values. Train the run anyway, in the folder of a sweep.
                    print("nothing is swept: no key has several values, so this is a sweep of one run", file=sys.stderr)
                _refuse_inside_run("hydra.sweep.dir", config.hydra.sweep.dir)
                if not sweep.dry_run:
                    _start(folder, sweep, grid, plan)
                    return
                all_rows = sweep.dry_run == "all"
                _dry_run(folder, plan or grid.jobs(), config_name, config.hydra.launcher, all_rows=all_rows)
        except COMPOSITION_ERRORS as error:
            exit_with(composition_error(error, checked_job))
        except DigitlabError as error:
            exit_with(error)
        sys.exit(0)  # after a dry run: otherwise Hydra would start the jobs


def _check_combination(overrides: Sequence[str], config: DictConfig, grid: Grid) -> None:
    """Raise ``ConfigError`` if a job with these overrides, and so this ``config``, can't be part of a sweep."""
    refuse_without_effect(overrides, config, swept=grid.keys)
    if OmegaConf.select(config, "trainer.strategy") == "ddp":
        allowed = "can't be swept with -m: each of its processes would launch the whole sweep"
        raise ConfigError("trainer.strategy", "ddp", allowed)


def _start(folder: Path, sweep: SweepSettings, grid: Grid, plan: SearchPlan | None) -> None:
    """Make the folder of the sweep and start its session. ``plan`` is None if the sweep is no search."""
    _make_folder("hydra.sweep.dir", str(folder))
    # A search chooses its jobs while it runs, so only their number is known.
    jobs, planned_runs = (grid.jobs(), None) if plan is None else (None, plan.runs)
    # Several processes can run one search together if its trials are in a storage, such as a database.
    shared = plan is not None and plan.settings.storage is not None
    with disk_faults(folder):
        session = SweepSession(
            folder, grid.keys, jobs, planned_runs=planned_runs, halving=sweep.halving, shared=shared,
            allow_divergence=sweep.allow_divergence,
        )  # fmt: skip
    start_sweep(session)


def _explain_experiment(error: DigitlabError, overrides: Sequence[str]) -> DigitlabError:
    """Return ``error``. If it reports a missing key that only ``experiment=NAME`` sets, the message says so.

    This happens if the user chooses an option that lacks the key, such as another model than that of the experiment.
    """
    if not isinstance(error, ConfigError) or not error.allowed.startswith("no such key"):
        return error
    typed = dict(map(split_override, overrides))
    group = error.key.partition(".")[0]
    if "experiment" not in typed or group not in typed or error.key in typed:
        return error
    reason = f"experiment={typed['experiment']} sets it, so {group}={typed[group]} does not go with this experiment"
    return ConfigError(error.key, error.value, f"{error.allowed}; {reason}")


def _dry_run(
    folder: Path,
    plan: SearchPlan | Sequence[Sequence[str]],
    config_name: str | None,
    launcher: DictConfig,
    *,
    all_rows: bool,
) -> None:
    from digitlab.sweeps.dry_run import dry_run, dry_run_search

    loader = GlobalHydra.instance().config_loader()
    if isinstance(plan, SearchPlan):
        dry_run_search(folder, plan, loader, config_name)
    else:
        dry_run(folder, plan, loader, config_name, launcher=launcher, all_rows=all_rows)


def _refuse_inside_run(key: str, folder: str) -> None:
    """Raise ``ConfigError`` for a folder inside a run folder: no command looks for runs there."""
    for parent in Path(folder).absolute().parents:
        if _is_run(RunFolder(parent)):
            allowed = f"is inside the run folder {short_path(parent)}, where no command finds it: choose another folder"
            raise ConfigError(key, folder, allowed)


def _is_run(run: RunFolder) -> bool:
    # Other programs that use Hydra have such a folder, too, but another configuration in it.
    if not run.config.exists():
        return False
    try:
        run.read_plain_config()
    except ConfigError:
        return False
    return True


def _refuse_existing_run(folder: str) -> None:
    run = RunFolder(Path(folder))
    if run.result.exists() or run.last.exists():
        raise ConfigError("hydra.run.dir", folder, f"holds a run: choose another folder, or type resume={folder}")
    # Commands do not look for runs inside a run folder, so these would disappear from all tables.
    others, _ = nearby_runs(run.path, seconds=_SEARCH_SECONDS)
    if others and others != [run]:
        allowed = f"contains other runs, such as {others[0].path.relative_to(run.path)}: choose a new folder inside it"
        raise ConfigError("hydra.run.dir", folder, allowed)


def _make_folder(key: str, folder: str) -> None:
    require_text(Path(folder), key=key)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(key, folder, "is a file: choose a new folder") from error
    except OSError as error:
        raise ConfigError(key, folder, f"can't be made: {write_failure(error)}") from error
