"""Trains the runs of ``digitlab reproduce``, which compares them with the values in course reports, row by row.

A row is a recipe (a file in ``conf/experiment``) with some overrides. The runs of a row differ in their seed, or in the
fold of a cross-validation. The seed or fold counts from 0 and is called ``replicate``. The executor of a row says how
its runs are trained: with Lightning as other runs, or by ``executors``, for example in NumPy.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from digitlab.config.compose import CONF, register_resolvers, walk
from digitlab.core.errors import RunError
from digitlab.core.extras import how_to_install
from digitlab.core.files import write_atomically
from digitlab.core.logging import log_to
from digitlab.core.signals import Interrupted
from digitlab.data.source import ImageSet
from digitlab.reproduce import executors
from digitlab.reproduce.load import LoadMeter
from digitlab.reproduce.outcomes import read_outcome
from digitlab.reproduce.rows import Row
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.experiment import Experiment

log = logging.getLogger(__name__)

# The override of a quick run: one epoch, with three mini-batches each of training, validation and test.
_QUICK = "debug=fast"


class LeftOut(RunError):
    """A row was left out because a package that it needs is not installed."""


def run_folder(root: Path, row: Row, replicate: int) -> RunFolder:
    """Return the folder of one run of a row: ``seed<k>``, or ``fold<k>`` in a cross-validation."""
    return RunFolder(root / row.name / f"{'seed' if row.folds is None else 'fold'}{replicate}")


def make_runs(
    rows: Sequence[Row], root: Path, *, seeds: int, quick: bool
) -> Iterator[tuple[Row, int, Exception | None]]:
    """Make every run that is missing in ``root``; yield row, replicate and the error (None if the run finished).

    A stopped run resumes from its checkpoint; a diverged run counts as finished. Runs that another process is making
    are skipped, so several processes can share the work. Raises ``Interrupted`` after SIGINT or SIGTERM.
    """
    # All rows get their first run before any gets a second one, so that the table soon has a value in every row.
    for replicate in range(max(row.replicates(seeds) for row in rows)):
        for row in rows:
            if replicate >= row.replicates(seeds):
                continue
            folder = run_folder(root, row, replicate)
            try:
                with _locked(root, folder):
                    if _run(row, folder, replicate, quick=quick):
                        yield row, replicate, None
            except Timeout:
                log.info("%s is made by another process", folder.path)
            except Interrupted:  # the user stops the whole command; the run itself has not failed
                raise
            except Exception as error:
                log.debug("%s failed", folder.path, exc_info=True)
                yield row, replicate, error


@contextmanager
def _locked(root: Path, folder: RunFolder) -> Iterator[None]:
    """Lock the run in ``folder``. Raises ``Timeout`` at once if another process has locked it."""
    locks = root / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "-".join(folder.path.parts[-2:]), timeout=0):
        yield


def _run(row: Row, folder: RunFolder, replicate: int, *, quick: bool) -> bool:
    """Make or resume one run; return False if it had finished before.

    Raises ``RunError`` if the folder holds a run with another configuration, and ``LeftOut`` if a package is missing.
    """
    if row.executor == "xgboost" and find_spec("xgboost") is None:
        raise LeftOut(f"xgboost is not installed: {how_to_install('baselines')}")
    overrides = [*row.command_overrides(replicate), *([_QUICK] if quick else [])]
    config, choices = compose(overrides)
    has_started = folder.config.exists()
    if has_started and (keys := _changed_keys(folder.read_config(), config)):
        raise RunError(f"{folder.path} was made with another {', '.join(keys)}: remove it to run it again")
    if read_outcome(folder) is not None:
        return False
    can_resume = has_started and row.executor == "lightning" and folder.last.exists()
    if folder.path.exists() and not can_resume:
        # The run failed or was stopped before its first checkpoint, or its executor writes no checkpoints.
        shutil.rmtree(folder.path)
    _write_hydra_files(folder, config, choices, overrides)
    # If other processes use the machine now, the training time of the run says nothing about the program.
    with log_to(folder.log), LoadMeter() as load:
        if row.executor == "lightning":
            _train(config, folder, overrides, resume=can_resume)
        else:
            _run_without_lightning(row, folder, config, quick=quick)
    if not can_resume:
        # For a resumed run, this meter does not know the load during its first part.
        load.write(folder)
    return True


def _train(config: DictConfig, folder: RunFolder, overrides: Sequence[str], *, resume: bool) -> None:
    try:
        train(config, folder=folder.path, overrides=overrides, resume=resume)
    except RunError:
        # ``train`` also raises if the run diverges, but that is a result of the recipe and no failure.
        if read_outcome(folder) is None:
            raise


def _changed_keys(stored: DictConfig, current: DictConfig) -> list[str]:
    """Return the keys that both configurations have with different values.

    The data folder and the accelerator are left out, because they belong to a machine and not to a recipe. Keys that
    only one configuration has are ignored, because another version of digitlab can have other keys.
    """
    # ``walk`` gives the dotted keys. A group such as ``data`` is a dict, whose values have keys of their own.
    before, after = (dict(walk(OmegaConf.to_container(each, resolve=False))) for each in (stored, current))
    return [
        key
        for key in before
        if key in after
        and before[key] != after[key]
        and not isinstance(before[key], dict)
        and key not in ("data.root", "trainer.accelerator")
    ]


def _run_without_lightning(row: Row, folder: RunFolder, config: DictConfig, *, quick: bool) -> None:
    """Train with the executor of the row, test, and write the run folder."""
    experiment = Experiment.from_config(config, typed=[])
    data = experiment.data
    data.prepare_data()
    data.setup()
    # A quick run tests only a few mini-batches. Lightning would stop after them; here, the test set is cut.
    limit = experiment.trainer.limit_test_batches
    test_count = None if limit is None else limit * data.batch_size
    data.test_set = ImageSet(data.test_set.images[:test_count], data.test_set.labels[:test_count])
    match row.executor:
        case "numpy":
            trained = executors.run_numpy(config, experiment, data, test_curve=row.name == "r1_test_curve")
        case "pure":
            trained = executors.run_pure(config, experiment, data)
        case "xgboost":
            trained = executors.run_xgboost(experiment, data)
        case other:
            raise RunError(f"{row.name}: there is no executor {other}")
    executors.write(folder, config, data, trained, command=f"digitlab reproduce {row.name}{' --quick' * quick}")


def compose(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the configuration of ``train.py OVERRIDES``, and the chosen option of each config group by its name.

    The progress bar is turned off. Hydra's own errors are raised unchanged.
    """
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
        composed = hydra_compose(
            "train", overrides=[*overrides, "trainer.progress_bar=false"], return_hydra_config=True
        )
    choices = {str(group): str(name) for group, name in composed.hydra.runtime.choices.items()}
    with open_dict(composed):
        del composed["hydra"]
    return composed, choices


def _write_hydra_files(
    folder: RunFolder, config: DictConfig, choices: dict[str, str], overrides: Sequence[str]
) -> None:
    """Write the files that Hydra writes into the folder of a run from the command line."""
    hydra = OmegaConf.to_yaml(OmegaConf.create({"hydra": {"runtime": {"choices": choices}}}))
    write_atomically(folder.config.with_name("hydra.yaml"), hydra.encode())
    folder.write_config(config, overrides)
