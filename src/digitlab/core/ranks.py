"""The rank of this process in its run (DDP starts several processes). Only rank 0 writes files and reports errors."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from digitlab.core.errors import DigitlabError


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
    return int(os.environ.get("LOCAL_RANK", "0"))
