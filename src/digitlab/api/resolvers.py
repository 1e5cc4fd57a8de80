"""The names of a sweep's folder, of its runs' and of Hydra's files in these, as ``conf/hydra/digitlab.yaml`` asks.

Resolving a configuration only reads: launchers add their jobs to the manifest (``add_jobs``).
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from digitlab.config.cli_errors import command_line_overrides
from digitlab.sweeps.job_failures import in_sweep
from digitlab.sweeps.manifest import folder_name, planned_folder, run_overrides
from digitlab.sweeps.resume import finished_value


def register_resolvers() -> None:
    # Cached, and Hydra hands the cache of the command on to its jobs: all of them get the same answer.
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("hydra_folder", _hydra_folder, replace=True)


def _sweep_folder(parent: str, name: str | None, fresh: bool | None) -> str:
    """``parent/name``; with ``fresh`` one that is not there yet, ``parent/name_2``."""
    name = name or _name_of(command_line_overrides())
    path, count = Path(parent) / name, 1
    while fresh and path.exists():
        count += 1
        path = Path(parent) / f"{name}_{count}"
    return str(path)


def _name_of(overrides: Sequence[str]) -> str:
    """The same for the same command, in whatever order it is typed."""
    groups = [override.removeprefix("sweep=") for override in overrides if override.startswith("sweep=")]
    others = sorted(override for override in run_overrides(overrides) if not override.startswith("sweep="))
    return folder_name("_".join([*groups, *others])) if groups or others else "default"


def _run_folder(*, _root_: DictConfig) -> str:
    """The name of a job's folder; ``_root_`` is the whole configuration of the job."""
    overrides = run_overrides(command_line_overrides(_root_.hydra))
    if OmegaConf.is_missing(_root_.hydra.job, "num"):
        return "<number>_<values>"  # no job, but --cfg
    return planned_folder(Path(_root_.hydra.sweep.dir), _root_, overrides)


def _hydra_folder(folder: str) -> str | None:
    """The folder for Hydra's files in a run folder; None in one that has finished, which is left untouched."""
    return ".hydra" if not in_sweep() or finished_value(Path(folder)) is None else None
