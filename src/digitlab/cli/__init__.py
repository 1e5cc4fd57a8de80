"""The ``digitlab`` command: what one does before training (``show``) and with finished runs.

    digitlab show data=cifar10 augment=[shift,flip]
    digitlab runs --sort val/accuracy
    digitlab evaluate RUN_FOLDER
    digitlab predict RUN_FOLDER image.png
    digitlab figures RUN_FOLDER
    digitlab report FOLDER…
    digitlab sweep SWEEP_FOLDER
    digitlab reproduce r2_softmax

Each module is a command. Torch is imported inside those that need it, so that ``--help`` and ``runs`` answer at once.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from digitlab.atomic import disk_faults

# Their commands join the application.
from digitlab.cli import evaluate, figures, predict, report, reproduce, runs, show, sweep  # noqa: F401
from digitlab.cli.app import app
from digitlab.schema import DigitlabError


def main() -> None:
    """The way in: what a user can put right is one line on stderr, without a traceback."""
    try:
        # Files are named by what writes them.
        with disk_faults("standard output"), _flushed():
            app()
    except DigitlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


@contextmanager
def _flushed() -> Iterator[None]:
    """Have what was printed leave the process while it can still be said that it could not."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            # What is left would be tried once more, and complained of, as the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):  # who reads no further has what was wanted
                raise
