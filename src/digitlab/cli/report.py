"""``digitlab report``: one self-contained HTML page about a run, a sweep, or any runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app
from digitlab.core.errors import ConfigError


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER…", help="A run folder, or folders with runs anywhere under them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write; needed for several folders.  [FOLDER/report.html]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier report.")] = False,
) -> None:
    """Write a report that opens in any browser, without a network: of one run all there is, of several a comparison."""
    from digitlab.report.gather import write_report

    if out is None and len(folders) > 1:
        raise ConfigError("", "--out", "must name the file to write where several folders are given")
    out = folders[0] / "report.html" if out is None else out
    for line in write_report(folders, out, force=force):
        print(line, file=sys.stderr)
    print(out)
