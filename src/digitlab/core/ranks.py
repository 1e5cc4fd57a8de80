"""Which of the processes of a run this one is (DDP starts several), and that only the first one reports an error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from digitlab.core.errors import DigitlabError


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
