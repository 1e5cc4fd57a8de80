"""The functions with which Python users train: ``train``, ``sweep`` and ``resume``. Each does the same as its command.

A run has the same configuration, checks, folder and results, to the last bit, as ``python train.py`` with the same
overrides. A mistake raises ``ConfigError`` with the text that the command prints.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from digitlab.api.arguments import brief, explain_unknown_arguments, given_path
from digitlab.api.hydra_app import hydra_app
from digitlab.api.opening import remember_network
from digitlab.api.own_objects import OwnObjects, own_objects
from digitlab.api.resume_folder import check_resume_folder
from digitlab.api.run import Run
from digitlab.api.running import stoppable_by_folder
from digitlab.api.sweep import Sweep
from digitlab.config.overrides import split_override
from digitlab.config.quoting import in_quotes
from digitlab.core.encoding import unencodable_replaced
from digitlab.core.errors import ConfigError, RunError
from digitlab.core.files import require_current_folder
from digitlab.core.signals import Interrupted, Stopper
from digitlab.results.lock import remove_unstarted_folders
from digitlab.sweeps.job_failures import SweepError, report_failure
from digitlab.sweeps.resume import complete_run
from digitlab.sweeps.session import report_sweep_at_end, running_path

log = logging.getLogger(__name__)

# Only one thread of this process may train at a time. It holds this lock.
_training_lock = threading.Lock()


@explain_unknown_arguments("digitlab.train")
def train(
    *overrides: str,
    model: Any = None,
    data: Any = None,
    test_data: Any = None,
    class_names: Sequence[str] | None = None,
    folder: str | Path | None = None,
    stopper: Stopper | None = None,
) -> Run:
    """Train one network and return its run: ``digitlab.train("model=mlp", "data=cifar10")``.

    ``model`` and ``data`` are names, as in the overrides, or objects of your own. A ``model`` is a network, which maps
    normalised images, float (N, C, H, W), to logits (N, K) and starts from the weights that it has; or a class of
    networks, whose constructor gets ``image_shape`` (C, H, W) and ``classes`` (K) if it has parameters of these names.
    Overrides set its other parameters: ``"model.hidden=64"``. ``data`` and ``test_data`` are pairs (images, labels) or
    torch data sets. Images are uint8 or floats in [0, 1], (N, H, W), (N, C, H, W) or (N, H, W, C); labels are whole
    numbers from 0, or texts. Without ``test_data``, a fifth of the images becomes the test set.

    ``folder`` is where the run goes; by default a new folder under ``outputs/``. A training in a thread other than the
    main one can be stopped with ``stopper.stop()`` or ``digitlab.open(folder).stop()``. Raises ``ConfigError`` for a
    wrong override or object, ``DataError`` for missing data, ``RunError`` for a failed run, and ``Interrupted`` if the
    training was stopped; the run has then been saved.
    """
    _check_overrides(overrides)
    if isinstance(model, list | tuple):
        raise ConfigError("model", f"{len(model)} networks", "digitlab.sweep(model=[...]) trains several")
    user_overrides = list(overrides)
    _refuse_twice("folder", folder, "hydra.run.dir", overrides)
    if folder is not None:
        user_overrides.append(f"hydra.run.dir={in_quotes(str(given_path(folder)))}")
    run_folders: list[Path] = []  # ``task`` adds one
    stopper = Stopper() if stopper is None else _checked_stopper(stopper)
    context = own_objects(user_overrides, model=model, data=data, test_data=test_data, class_names=class_names)
    with _exclusive_training(), context as objects:

        def task(config: DictConfig) -> None:
            from digitlab.training import train as train_config

            _log_how_to_resume(objects, also_print=config.trainer.progress_bar)
            with report_failure(), stoppable_by_folder(Path(HydraConfig.get().runtime.output_dir), stopper):
                run_folders.append(train_config(config).folder)

        needs_model = objects.reason_to_pass_again is not None
        arguments = [*user_overrides, *objects.overrides]
        with _stoppable(stopper, needs_model=needs_model), hydra_app(arguments) as (hydra, hydra_overrides):
            hydra.run(config_name="train", task_function=task, overrides=hydra_overrides)
    return Run(run_folders[0])


@explain_unknown_arguments("digitlab.sweep")
def sweep(
    *overrides: str,
    model: Any = None,
    data: Any = None,
    test_data: Any = None,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    stopper: Stopper | None = None,
) -> Sweep:
    """Train a run for each combination of values and return the sweep: ``digitlab.sweep("seed=range(3)")``.

    The same call again skips what has finished and resumes the rest, as the command does. ``name`` is the name of the
    sweep's folder. ``model`` and ``data`` are as in ``train``; a list of networks is swept over. Networks of your own
    train one after another, in this process. Runs that fail do not stop the others: ``Sweep.failures`` lists them, and
    a warning says so. Raises what ``train`` raises for mistakes that concern the whole sweep.
    """
    _check_overrides(overrides)
    if any(split_override(override)[0] == "sweep.dry_run" for override in overrides):
        raise ConfigError("sweep.dry_run", True, "use the command: python train.py -m ... sweep.dry_run=true")
    _refuse_twice("name", name, "sweep.name", overrides)
    user_overrides = [*overrides, *([] if name is None else [f"sweep.name={in_quotes(str(name))}"])]
    stopper = None if stopper is None else _checked_stopper(stopper)
    sweep_folders: list[Path] = []  # stays empty if the sweep does not start

    def task(config: DictConfig) -> float:
        with report_failure():
            return complete_run(config)

    context = own_objects(user_overrides, model=model, data=data, test_data=test_data, class_names=class_names)
    try:
        with _exclusive_training(), context as objects:
            if objects.reason_to_pass_again is not None:
                _refuse_other_processes(user_overrides, objects.reason_to_pass_again)
            arguments = [*user_overrides, *objects.overrides]
            with (
                _stoppable(stopper, sweep=True),
                hydra_app(arguments, multirun=True) as (hydra, hydra_overrides),
                report_sweep_at_end(),
            ):
                try:
                    hydra.multirun(config_name="train", task_function=task, overrides=hydra_overrides)
                finally:
                    sweep_folders += running_path()  # empty again after ``report_sweep_at_end``
    except SweepError as error:
        if not sweep_folders:
            raise
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    return Sweep(sweep_folders[0])


@explain_unknown_arguments("digitlab.resume")
def resume(
    folder: str | Path, *, max_epochs: int | None = None, model: Any = None, stopper: Stopper | None = None
) -> Run:
    """Continue a stopped run in its own folder, with its own configuration; ``max_epochs`` may extend it.

    ``model`` is needed for a run with a network of your own that this process has not trained: the same network or
    class. Raises what ``train`` raises, and ``ConfigError`` if ``folder`` is not a run folder.
    """
    from digitlab.training.resuming import resume as resume_folder

    path = given_path(folder)
    check_resume_folder(str(path))
    if model is not None:
        remember_network(path, model)
    arguments = [] if max_epochs is None else [f"trainer.max_epochs={max_epochs}"]
    stopper = Stopper() if stopper is None else _checked_stopper(stopper)
    stoppable = _stoppable(stopper, needs_model=model is not None)
    with _exclusive_training(), stoppable, stoppable_by_folder(path, stopper):
        return Run(resume_folder(str(path), arguments).folder)


def _log_how_to_resume(objects: OwnObjects, *, also_print: bool) -> None:
    """If another process can resume the run only with its network, log how and why, and print it if ``also_print``."""
    if objects.reason_to_pass_again is None:
        return
    how = "digitlab.resume(FOLDER, model=...)"
    line = f"another Python process can resume this run only with its network, by {how}: {objects.reason_to_pass_again}"
    log.info(line)
    if also_print:
        print(line)


def _refuse_other_processes(overrides: Sequence[str], reason_to_pass_again: str) -> None:
    """Raise ``ConfigError`` if the overrides choose a launcher that would train in other processes."""
    # With hydra.launcher.over, the launcher ``vectorized`` passes its populations on to another launcher.
    in_this_process = {"hydra/launcher": ("basic", "vectorized"), "hydra.launcher.over": ("null",)}
    for key, value in map(split_override, overrides):
        if value not in in_this_process.get(key, (value,)):
            raise ConfigError(key, value, f"other processes can't build the network: {reason_to_pass_again}")


@contextmanager
def _exclusive_training() -> Iterator[None]:
    """Allow only one training at a time in this process, and restore torch's random state at its end.

    A run seeds the random state, and the user's own random numbers must not depend on that. While the training runs,
    characters that stdout can't show are replaced. Raises ``RunError`` if another thread of this process is training,
    because trainings share the random state and Hydra's globals, or if the current folder has been removed.
    """
    import torch

    require_current_folder()
    if not _training_lock.acquire(blocking=False):
        raise RunError("this process trains already in another thread: wait for it, or stop it")
    try:
        # If CUDA is not in use yet, do not initialise it only to save its random state.
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices), unencodable_replaced(sys.stdout):
            yield
    finally:
        _training_lock.release()


@contextmanager
def _stoppable(stopper: Stopper | None, *, sweep: bool = False, needs_model: bool = False) -> Iterator[None]:
    """Let ``stopper`` stop the training in this context; if it is stopped, raise an error that says how to resume it.

    ``sweep`` says that it is a sweep. ``needs_model`` says that another process can resume the run only with its
    network.
    """
    try:
        with nullcontext() if stopper is None else stopper.active():
            yield
    except Interrupted as error:
        if sweep or error.folder is None:
            how = "call digitlab.sweep with the same arguments again"
            raise Interrupted(error.number, ": the unfinished runs are saved", how=how) from None
        how = f"digitlab.resume({str(error.folder)!r}{', model=...' if needs_model else ''})"
        raise Interrupted(error.number, error.where, how=how, folder=error.folder) from None
    finally:
        remove_unstarted_folders()


def _check_overrides(overrides: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` for overrides that are not texts, and for ``resume=`` and options such as ``-m``."""
    for override in overrides:
        if not isinstance(override, str):
            hint = "; put a * before the list of texts" if isinstance(override, list | tuple) else ""
            allowed = f'overrides are texts, as in digitlab.train("model=mlp", "seed=1"){hint}'
            raise ConfigError("", brief(override), allowed)
        key, value = split_override(override)
        if key == "resume":
            raise ConfigError("resume", value, "use digitlab.resume(folder)")
        if override.startswith("-"):
            sweep = override in ("-m", "--multirun")
            allowed = "use digitlab.sweep(...)" if sweep else "Python functions have arguments: help(digitlab.train)"
            raise ConfigError("", override, f"is an option of the command; {allowed}")


def _refuse_twice(argument: str, value: object, key: str, overrides: Sequence[str]) -> None:
    """Raise ``ConfigError`` if both ``argument`` and an override of ``key`` are given: one would have no effect."""
    if value is not None and any(split_override(override)[0] == key for override in overrides):
        raise ConfigError(argument, brief(value), f"can't be given together with {key}=, which means the same")


def _checked_stopper(stopper: object) -> Stopper:
    if not isinstance(stopper, Stopper):
        raise ConfigError("stopper", brief(stopper), "must be a digitlab.Stopper()")
    return stopper
