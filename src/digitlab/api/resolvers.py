"""Resolvers for folder names in ``conf/hydra/digitlab.yaml``: of sweeps, of their runs, and of Hydra's own files.

Resolvers only read files. Launchers write the manifest of a sweep (``add_jobs``).
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from digitlab.config.cli_errors import command_line_overrides
from digitlab.config.command_line import undeferred
from digitlab.sweeps.job_failures import in_sweep
from digitlab.sweeps.manifest import folder_name, planned_folder, run_overrides
from digitlab.sweeps.resume import finished_value


def register_resolvers() -> None:
    # Cached, and Hydra passes the cache to the jobs of the sweep, so that all jobs get the same folder.
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("hydra_folder", _hydra_folder, replace=True)


def _sweep_folder(parent: str, name: str | None, fresh: bool | None) -> str:
    """Return ``parent/name``. If ``fresh``, return the first of this, ``parent/name_2``, … that does not exist."""
    name = name or _name_of(command_line_overrides())
    path, count = Path(parent) / name, 1
    while fresh and path.exists():
        count += 1
        path = Path(parent) / f"{name}_{count}"
    return str(path)


def _name_of(overrides: Sequence[str]) -> str:
    """Return the folder name of the sweep with these overrides. Their order does not change the name."""
    groups = [override.removeprefix("sweep=") for override in overrides if override.startswith("sweep=")]
    others = sorted(undeferred(each) for each in run_overrides(overrides) if not each.startswith("sweep="))
    return folder_name("_".join([*groups, *others])) if groups or others else "default"


def _run_folder(*, _root_: DictConfig) -> str:
    """Return the folder name of a job; ``_root_`` is the whole configuration of the job."""
    overrides = run_overrides(command_line_overrides(_root_.hydra))
    if OmegaConf.is_missing(_root_.hydra.job, "num"):
        return "<number>_<values>"  # there is no job, because --cfg only shows the configuration
    return planned_folder(Path(_root_.hydra.sweep.dir), _root_, overrides)


def _hydra_folder(folder: str) -> str | None:
    """Return the name of the subfolder for Hydra's files, or None if the run has finished and must not change."""
    return ".hydra" if not in_sweep() or finished_value(Path(folder)) is None else None
