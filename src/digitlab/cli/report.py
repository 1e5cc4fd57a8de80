"""``digitlab report``: write one self-contained HTML page about a run, a sweep, or any set of runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app, print_progress
from digitlab.core.errors import ConfigError


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER…", help="A run folder, or folders that contain runs at any depth.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write; required for several folders.  [FOLDER/report.html]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing report.")] = False,
) -> None:
    """Write an HTML report that needs no network: all details of one run, or a comparison of several runs."""
    from digitlab.report.gather import write_report

    if out is None and len(folders) > 1:
        raise ConfigError("", "--out", "must name the output file if several folders are given")
    out = folders[0] / "report.html" if out is None else out
    for line in write_report(folders, out, force=force, progress=print_progress):
        print(line, file=sys.stderr)
    print(out)
