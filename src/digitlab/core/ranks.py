"""The rank of this process in its run (DDP starts several processes). Only rank 0 writes files and reports errors."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from digitlab.core.errors import DigitlabError, RunError

# Parts of the messages of gloo and NCCL, torch's libraries for communication, when a connection to a process breaks.
_CONNECTION_BROKEN = re.compile(
    r"connection (closed|reset|refused)|broken pipe|remote process exited|read error", re.IGNORECASE
)


@contextmanager
def first_process_reports() -> Iterator[None]:
    """End every rank but rank 0 at the end of the with block, with exit code 0, even after a ``DigitlabError``.

    Rank 0 alone writes the result or raises this error, which is the same on all ranks. If another rank ended with an
    error, Lightning would kill rank 0, which may still be writing files. Other exceptions are raised on every rank.
    """
    try:
        yield
    except DigitlabError:
        if is_first_process():
            raise
    if not is_first_process():
        sys.exit()


def is_first_process() -> bool:
    """Return whether this process has rank 0."""
    return process_rank() == 0


def process_rank() -> int:
    """Return the rank of this process in its run, from 0."""
    # Lightning sets this variable in each process that it starts. So the rank is known before a Trainer exists.
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    # If SLURM's srun has started several tasks, the number of the task is the rank, and Lightning starts no process.
    has_several_tasks = int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return int(os.environ.get("SLURM_PROCID", "0")) if has_several_tasks else 0


@contextmanager
def lost_process_reported() -> Iterator[None]:
    """Raise a ``RunError`` instead of torch's error if the connection to another process of the run breaks."""
    try:
        yield
    except RuntimeError as error:
        if _CONNECTION_BROKEN.search(str(error)) is None:
            raise
        message = "another process of this run has died, perhaps because memory ran out: resume=FOLDER continues"
        raise RunError(message) from error
