"""Keeps other libraries quiet during a run, and copies log messages to ``train.log``. Used by ``training``."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_QUIET_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",
    # Lightning prints this on login nodes of SLURM clusters. A run needs no srun, and launchers call it themselves.
    r"The `srun` command is available on your system but is not used",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide Lightning's start messages and the warnings in ``_QUIET_WARNINGS``.

    Also hide errors from ``logging`` and from TensorBoard's threads when the disk is full. The run then ends with one
    line anyway, because its next checkpoint cannot be written.
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
    # TensorBoard's writer raises the same error again in the main thread at the next event.
    if not isinstance(thread.exc_value, OSError):
        threading.__excepthook__(thread)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append log messages of level INFO and above to ``path``; other handlers receive only warnings and errors.

    A resumed run uses this, because Hydra does not configure logging for it.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
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
