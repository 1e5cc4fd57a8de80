"""The ``digitlab`` command: train, look at a data set before training (``show``), and work with finished runs.

    digitlab train model=mlp data=cifar10
    digitlab show data=cifar10 augment=[shift,flip]
    digitlab runs --sort val/accuracy
    digitlab evaluate RUN_FOLDER
    digitlab predict RUN_FOLDER image.png pictures/
    digitlab explain RUN_FOLDER image.png
    digitlab figures RUN_FOLDER --format pdf --width column
    digitlab report FOLDER…
    digitlab sweep SWEEP_FOLDER
    digitlab compare SWEEP_FOLDER --key optimizer
    digitlab watch --open
    digitlab export RUN_FOLDER --to onnx
    digitlab demo RUN_FOLDER…
    digitlab reproduce r2_softmax
    digitlab init mylab
    digitlab doctor

Each module contains one command. Commands import torch inside their functions, so that ``--help`` and ``runs``, which
do not need it, start quickly. ``train.py`` imports this package, too, so it imports Typer only when a command needs it.
"""

import platform
import sys
from importlib.metadata import version

from digitlab.core.errors import ConfigError, DigitlabError
from digitlab.core.files import flush_stdout, require_current_folder
from digitlab.core.streams import open_missing_streams


def print_version() -> None:
    """Print the versions of digitlab and Python. Importing torch for its version would take seconds."""
    print(f"digitlab {version('digitlab')}, Python {platform.python_version()}")


def _is_damaged_configuration(error: Exception) -> bool:
    """Whether OmegaConf, which commands read the configuration of a run with, raised ``error``."""
    return type(error).__module__.partition(".")[0] == "omegaconf"


def main() -> None:
    """Entry point of the command. Print a ``DigitlabError`` or a usage error as one line, and exit with its code."""
    open_missing_streams()
    if sys.argv[1:2] == ["train"]:
        from digitlab.cli.train import run_as_subcommand

        run_as_subcommand()
        return
    if sys.argv[1:] in (["--version"], ["-V"]):
        print_version()
        return
    try:
        require_current_folder()
        if "" in sys.argv[1:]:
            # An empty path would be the current folder. Usually it is a variable of the shell without a value.
            raise ConfigError("", "''", "an argument is empty: write the folder, file or value")
        from digitlab.cli.commands import app

        with flush_stdout():
            # Without the standalone mode, Typer raises usage errors instead of printing them.
            sys.exit(app(standalone_mode=False) or 0)
    except KeyboardInterrupt:  # while modules are imported; Typer catches it later
        sys.exit(130)
    except DigitlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        from digitlab.cli.usage import is_usage_error, usage_line

        if _is_damaged_configuration(error):
            reason = str(error).partition("\n")[0]
            print(f"the configuration of the run is damaged or of another version: {reason}", file=sys.stderr)
            sys.exit(1)
        if not is_usage_error(error):
            raise
        print(usage_line(error), file=sys.stderr)
        sys.exit(2)
