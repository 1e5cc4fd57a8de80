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

import sys

# Their commands join the application.
from digitlab.cli import evaluate, figures, predict, report, reproduce, runs, show, sweep  # noqa: F401
from digitlab.cli.app import app
from digitlab.core.errors import DigitlabError
from digitlab.core.files import flush_stdout


def main() -> None:
    """The way in: what a user can put right is one line on stderr, without a traceback."""
    try:
        with flush_stdout():
            app()
    except DigitlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
