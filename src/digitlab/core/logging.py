"""Keeps other libraries quiet during a run and copies log messages to the run's ``train.log``."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_QUIET_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",
    # Lightning says so on each login node of a SLURM cluster. A run needs no srun, and launchers call it themselves.
    r"The `srun` command is available on your system but is not used",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Lightning's greetings and the named warnings of third parties off the terminal.

    So too what logging and TensorBoard's threads say where the disk is full: a checkpoint that can't be written ends
    the run, in one line.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    before = logging.raiseExceptions, threading.excepthook
    logging.raiseExceptions, threading.excepthook = False, _quiet_disk_faults
    with warnings.catch_warnings():
        for message in _QUIET_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.raiseExceptions, threading.excepthook = before
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _quiet_disk_faults(thread: threading.ExceptHookArgs) -> None:
    # TensorBoard's writer raises it once more in the thread that hands it events.
    if not isinstance(thread.exc_value, OSError):
        threading.__excepthook__(thread)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Add what is logged meanwhile to the file ``path``, as Hydra's logging of a job does; elsewhere only warnings."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    root = logging.getLogger()
    before = root.level, [(other, other.level) for other in root.handlers]
    for other in root.handlers:
        other.setLevel(max(other.level, logging.WARNING))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
        root.setLevel(before[0])
        for other, level in before[1]:
            other.setLevel(level)
