"""OmegaConf resolvers that ``conf/hydra/digitlab.yaml`` uses to name the folders of sweeps, of runs and of Hydra.

The resolvers only read files. The launchers write the manifest of a sweep, the list of its jobs (``add_jobs``).
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
    """Register ``${sweep_folder:…}``, ``${run_folder:}`` and ``${hydra_folder:…}``; ``compose`` has the others."""
    # The sweep folder is resolved once and cached. Hydra passes the cache to all jobs, so they share this folder.
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("hydra_folder", _hydra_folder, replace=True)


def _sweep_folder(parent: str, name: str | None, fresh: bool | None) -> str:
    """Return ``parent/name``. With ``fresh``, return the first of ``parent/name``, ``parent/name_2``, … that is new.

    If ``name`` is None, the name is made from the overrides of the command.
    """
    name = name or _name_of(command_line_overrides())
    path, count = Path(parent) / name, 1
    while fresh and path.exists():
        count += 1
        path = Path(parent) / f"{name}_{count}"
    return str(path)


def _name_of(overrides: Sequence[str]) -> str:
    """Return a folder name for a sweep, made from its overrides. The order of the overrides does not change it."""
    sweep_names = [override.removeprefix("sweep=") for override in overrides if override.startswith("sweep=")]
    other_overrides = sorted(
        undeferred(override) for override in run_overrides(overrides) if not override.startswith("sweep=")
    )
    return folder_name("_".join([*sweep_names, *other_overrides])) if sweep_names or other_overrides else "default"


def _run_folder(*, _root_: DictConfig) -> str:
    """Return the name of a job's folder. OmegaConf passes the whole configuration of the job as ``_root_``."""
    overrides = run_overrides(command_line_overrides(_root_.hydra))
    if OmegaConf.is_missing(_root_.hydra.job, "num"):
        return "<number>_<values>"  # there is no job, because --cfg only shows the configuration
    return planned_folder(Path(_root_.hydra.sweep.dir), _root_, overrides)


def _hydra_folder(folder: str) -> str | None:
    """Return the name of the subfolder for Hydra's files.

    For a run of a sweep that has already finished, return None, so that Hydra does not change its files.
    """
    return ".hydra" if not in_sweep() or finished_value(Path(folder)) is None else None
