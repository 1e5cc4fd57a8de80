"""Registers all commands with the Typer application. ``digitlab.cli.main`` imports this module."""

import typer

# Importing a module registers its command.
from digitlab.cli import (  # noqa: F401
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    figures,
    init,
    predict,
    report,
    reproduce,
    runs,
    show,
    sweep,
    watch,
)  # fmt: skip
from digitlab.cli.app import app
from digitlab.cli.repeated_options import StrictCommand

__all__ = ["app"]


@app.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)  # fmt: skip
def train(context: typer.Context) -> None:
    """Train one network, or with -m a sweep of many: the same as train.py. digitlab train --help explains it."""
    # ``digitlab.cli.main`` passes this command to Hydra, so Typer never calls the function. The function exists only to
    # list ``train`` in ``digitlab --help``.
    raise AssertionError(f"digitlab train {' '.join(context.args)} did not reach Hydra")


for registered in app.registered_commands:
    registered.cls = StrictCommand
