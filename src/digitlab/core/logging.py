"""Keeps other libraries quiet during a run, and copies log messages to ``train.log``. Used by ``training``."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_QUIET_WARNINGS = (
    # Lightning still uses a function that torch has deprecated.
    r".*isinstance\(treespec, LeafSpec\).*",
    # Lightning prints this on login nodes of SLURM clusters. A run works without srun, and launchers that need srun
    # call it themselves.
    r"The `srun` command is available on your system but is not used",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide Lightning's start messages and those of its warnings that do not concern the user.

    If the disk is full, also hide the errors of ``logging`` and of TensorBoard's threads. The run then ends with a
    message of one line anyway, because its next checkpoint cannot be written.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    previous_hooks = logging.raiseExceptions, threading.excepthook
    logging.raiseExceptions, threading.excepthook = False, _quiet_disk_faults
    with warnings.catch_warnings():
        for message in _QUIET_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.raiseExceptions, threading.excepthook = previous_hooks
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _quiet_disk_faults(failure: threading.ExceptHookArgs) -> None:
    """Print the traceback of an exception that ended a thread, as Python does, unless the disk caused it."""
    # TensorBoard's writer raises the same error again in the main thread at the next event.
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append log messages of level INFO and above to ``path``; other handlers receive only warnings and errors.

    Resumed runs, and runs that are trained together as a population, use this: Hydra configures logging only for the
    jobs that it runs itself.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    root = logging.getLogger()
    previous_level, previous_handlers = root.level, [(other, other.level) for other in root.handlers]
    for other in root.handlers:
        other.setLevel(max(other.level, logging.WARNING))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
        root.setLevel(previous_level)
        for other, level in previous_handlers:
            other.setLevel(level)
