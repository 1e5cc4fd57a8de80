"""The typer application that the commands join, and the arguments that several of them take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="What one does before training (show) and with finished runs.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip


class Which(StrEnum):
    """The checkpoints of a run."""

    BEST = "best"
    LAST = "last"


class Device(StrEnum):
    """Where to compute; ``auto`` is CUDA where there is one, else Apple's GPU, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Folder = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder that the run's last line named.")]
WhichOption = Annotated[Which, typer.Option("--checkpoint", help="The best checkpoint by validation, or the last.")]
