"""The rank of this process in its run (DDP starts several processes). Only rank 0 writes files and reports errors."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from digitlab.core.errors import DigitlabError, RunError

# What gloo and NCCL say when the connection to another process breaks.
_LOST = re.compile(r"connection (closed|reset|refused)|broken pipe|remote process exited|read error", re.IGNORECASE)


@contextmanager
def first_process_reports() -> Iterator[None]:
    """Let only rank 0 raise a ``DigitlabError``. Other ranks end here with exit code 0.

    All ranks fail with the same error. If another rank ended with an error, Lightning would kill rank 0, which may
    still be writing files.
    """
    try:
        yield
    except DigitlabError:
        if is_first_process():
            raise
    if not is_first_process():
        sys.exit()


def is_first_process() -> bool:
    """Whether this process has rank 0, which writes files and reports errors."""
    return process_rank() == 0


def process_rank() -> int:
    """Return the rank of this process in its run, from 0."""
    # Lightning sets this variable when it starts a process. It is known before a Trainer exists.
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    # If SLURM's srun has started several tasks of a job, Lightning starts none.
    several = int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return int(os.environ.get("SLURM_PROCID", "0")) if several else 0


@contextmanager
def lost_process_reported() -> Iterator[None]:
    """Turn the error of torch after another process of the run has died into a ``RunError``."""
    try:
        yield
    except RuntimeError as error:
        if _LOST.search(str(error)) is None:
            raise
        message = "another process of this run has died, perhaps because memory ran out: resume=FOLDER continues"
        raise RunError(message) from error
