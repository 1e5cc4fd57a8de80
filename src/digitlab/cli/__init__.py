"""The ``digitlab`` command: look at a data set before training (``show``) and work with finished runs.

    digitlab show data=cifar10 augment=[shift,flip]
    digitlab runs --sort val/accuracy
    digitlab evaluate RUN_FOLDER
    digitlab predict RUN_FOLDER image.png pictures/
    digitlab figures RUN_FOLDER --format pdf --width column
    digitlab report FOLDER…
    digitlab sweep SWEEP_FOLDER
    digitlab reproduce r2_softmax

Each module contains one command. Commands import torch inside their functions, so that ``--help`` and ``runs``, which
do not need it, start quickly.
"""

import sys

# Importing a module registers its command.
from digitlab.cli import evaluate, figures, predict, report, reproduce, runs, show, sweep, train  # noqa: F401
from digitlab.cli.app import app
from digitlab.core.errors import DigitlabError
from digitlab.core.files import flush_stdout


def main() -> None:
    """Entry point of the command. Print a ``DigitlabError`` as one line on stderr and exit with its code."""
    try:
        with flush_stdout():
            app()
    except DigitlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
