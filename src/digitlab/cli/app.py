"""The Typer application to which all commands belong, and what several commands share."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from digitlab.core.errors import ConfigError
from digitlab.results.checkpoint_name import CheckpointName

app = typer.Typer(
    help="Look at a data set before training (show), train, and work with finished runs",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip


def refuse_without_effect(reason: str, **given: bool) -> None:
    """Raise ``ConfigError`` for the first option that was ``given``; it has no effect for this ``reason``.

    ``gif_every=True`` stands for the option ``--gif-every``.
    """
    for name, is_given in given.items():
        if is_given:
            raise ConfigError("", f"--{name.replace('_', '-')}", f"has no effect: {reason}")


class Device(StrEnum):
    """Where to compute; ``auto`` uses CUDA if available, else Apple's GPU, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class FileFormat(StrEnum):
    """The file formats of figures."""

    PNG = "png"
    PDF = "pdf"
    SVG = "svg"


class PaperWidth(StrEnum):
    """The widths that a figure can have in a paper: one column, or the whole page."""

    COLUMN = "column"
    PAGE = "page"


Folder = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder that the training printed last.")]
CheckpointOption = Annotated[
    CheckpointName, typer.Option("--checkpoint", help="The best checkpoint on validation, or the last.")
]
WidthOption = Annotated[
    PaperWidth | None,
    typer.Option("--width", help="Width in a paper: column is 3.5 inches, page is 7.2.  [default: for a screen]"),
]


def print_progress(text: str) -> None:
    """Print a line to stderr at once, before a slow step."""
    print(text, file=sys.stderr, flush=True)
