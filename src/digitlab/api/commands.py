"""What Python users call: ``train``, ``sweep``, ``resume``, ``runs`` and ``open``. They do what the commands do.

The configuration, the checks, the folders and the bits of a run are those of ``python train.py`` with the same
overrides. A mistake raises ``ConfigError`` with the text that the command prints.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from digitlab.api.frames import to_frame
from digitlab.api.hydra_app import hydra_app
from digitlab.api.run import Run
from digitlab.api.sweep import Sweep
from digitlab.config.compose import ROOT
from digitlab.core.errors import ConfigError
from digitlab.core.signals import Interrupted, Stopper
from digitlab.results.folder import find_runs
from digitlab.results.lock import remove_unbegun
from digitlab.results.table import run_row
from digitlab.sweeps.job_failures import SweepError, report_failure
from digitlab.sweeps.manifest import manifest_file
from digitlab.sweeps.resume import complete_run
from digitlab.sweeps.session import report_sweep_at_end, running_path


def train(*overrides: str, folder: str | Path | None = None, stopper: Stopper | None = None) -> Run:
    """Train one network and return its run: ``digitlab.train("model=mlp", "data=cifar10")``.

    ``folder`` is where the run goes; by default a new folder under ``outputs/``. In a thread other than the main one,
    ``stopper.stop()`` ends the training early. Raises ``ConfigError`` for a wrong override, ``DataError`` for missing
    data, ``RunError`` for a failed run, and ``Interrupted`` if the training was stopped; the run is saved then.
    """
    _refuse_commands(overrides)
    given = [*overrides, *([] if folder is None else [f"hydra.run.dir={_quoted(folder)}"])]
    trained: list[Path] = []

    def task(config: DictConfig) -> None:
        from digitlab.training import train as train_config

        with report_failure():
            trained.append(train_config(config).folder)

    with _stoppable(stopper), hydra_app(given) as (hydra, read):
        hydra.run(config_name="train", task_function=task, overrides=read)
    return Run(trained[0])


def sweep(*overrides: str, name: str | None = None, stopper: Stopper | None = None) -> Sweep:
    """Train a run for each combination of values and return the sweep: ``digitlab.sweep("seed=range(3)")``.

    The same call again skips what has finished and resumes the rest, as the command does. ``name`` is the name of the
    sweep's folder. Runs that fail do not stop the others: ``Sweep.failures`` lists them, and a warning says so. Raises
    what ``train`` raises for mistakes that concern the whole sweep.
    """
    _refuse_commands(overrides)
    if any(override.partition("=")[0] == "sweep.dry_run" for override in overrides):
        raise ConfigError("sweep.dry_run", True, "use the command: python train.py -m ... sweep.dry_run=true")
    given = [*overrides, *([] if name is None else [f"sweep.name={_quoted(name)}"])]
    paths: list[Path] = []

    def task(config: DictConfig) -> float:
        with report_failure():
            return complete_run(config)

    try:
        with _stoppable(stopper), hydra_app(given, multirun=True) as (hydra, read), report_sweep_at_end():
            try:
                hydra.multirun(config_name="train", task_function=task, overrides=read)
            finally:
                paths += running_path()
    except SweepError as error:
        if not paths:
            raise
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    return Sweep(paths[0])


def resume(folder: str | Path, *, max_epochs: int | None = None, stopper: Stopper | None = None) -> Run:
    """Continue a stopped run in its own folder, with its own configuration; ``max_epochs`` may extend it.

    Raises what ``train`` raises, and ``ConfigError`` if ``folder`` is not a run folder.
    """
    from digitlab.training.resuming import resume as resume_folder

    arguments = [] if max_epochs is None else [f"trainer.max_epochs={max_epochs}"]
    with _stoppable(stopper):
        return Run(resume_folder(str(folder), arguments).folder)


def runs(root: str | Path | None = None) -> Any:
    """All runs under ``root`` (by default ``outputs/``), the oldest first: a data frame or a list of dicts.

    A folder that cannot be read has the status ``unreadable``.
    """
    rows = []
    for run in find_runs(ROOT / "outputs" if root is None else Path(root)):
        try:
            rows.append(run_row(run))
        except (OSError, ValueError):
            rows.append({"status": "unreadable", "folder": str(run.path)})
    return to_frame(rows)


def open_folder(folder: str | Path) -> Run | Sweep:
    """Return the run or the sweep in ``folder``. Raises ``ConfigError`` if it is neither."""
    path = Path(folder).expanduser()
    return Sweep(path) if manifest_file(path).exists() else Run(path)


@contextmanager
def _stoppable(stopper: Stopper | None) -> Iterator[None]:
    """Let ``stopper`` stop what runs within; tell Python users how to resume an interrupted run."""
    try:
        with nullcontext() if stopper is None else stopper.active():
            yield
    except Interrupted as stopped:
        stopped.add_note("In Python: digitlab.resume(FOLDER) continues a run; the same digitlab.sweep(...) a sweep.")
        raise
    finally:
        remove_unbegun()


def _refuse_commands(overrides: tuple[str, ...]) -> None:
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError("", override, 'overrides are texts, as in digitlab.train("model=mlp", "seed=1")')
        if override.partition("=")[0] == "resume":
            raise ConfigError("resume", override.partition("=")[2], "use digitlab.resume(folder)")
        if override.startswith("-"):
            raise ConfigError("", override, "is an option of the command; use digitlab.sweep(...) instead of -m")


def _quoted(value: str | Path) -> str:
    """``value`` so that Hydra's grammar takes every character literally."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
