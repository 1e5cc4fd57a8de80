"""``digitlab train``: there is no such command; explain how to train."""

from typing import Annotated

import typer

from digitlab.cli.app import app
from digitlab.core.errors import ConfigError


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def train(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Training is not a command of digitlab: use python train.py."""
    command = " ".join(["python train.py", *(arguments or [])])
    raise ConfigError("", "digitlab train", f"there is no such command, use {command}")
