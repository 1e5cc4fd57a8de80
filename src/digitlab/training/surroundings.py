"""What surrounds a run: libraries that are kept quiet, processes beside the first, memory that runs out."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from digitlab.schema import DigitlabError, RunError

# What torch's allocator, the system, C++ and Python's threads, which need a stack each, say.
_SIGNS_OF_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "can't start new thread")


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
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
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


@contextmanager
def first_process_reports() -> Iterator[None]:
    """End the other processes of a run quietly: they all come to the same end, and the first one tells of it.

    Lightning kills the first process, which may still be writing, as soon as another ends with an error.
    """
    try:
        yield
    except DigitlabError:
        if is_first_process():
            raise
    if not is_first_process():
        sys.exit()


def is_first_process() -> bool:
    """Whether this process is the one that writes and reports."""
    return process_rank() == 0


def process_rank() -> int:
    """The number of this process among those of the run, from 0."""
    # Lightning numbers the processes that it launches, here before a Trainer could be asked.
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def device_memory() -> Iterator[None]:
    """Turn memory that has run out, the device's or the machine's, into a ``RunError``."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        what = str(error).partition("\n")[0].rpartition("] ")[2] or type(error).__name__
        raise RunError(f"out of memory: a smaller data.batch_size or model helps ({what})") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory has run out, or was raised from or while handling one that does."""
    # torch.save, out of memory half-way, raises from closing what it has begun: what came before stands in the context.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and out_of_memory(before):
        return True
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a processor torch raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY)
