"""``digitlab sweep``: print the table of a sweep and its best run, and draw its figures."""

from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import FileFormat, WidthOption, app
from digitlab.core.errors import ConfigError


@app.command()
def sweep(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP_FOLDER", help="The folder that the sweep printed last.")],
    figures: Annotated[bool, typer.Option(help="Also draw the figures in SWEEP_FOLDER/figures.")] = True,
    file_format: Annotated[FileFormat, typer.Option("--format", help="File format of the figures.")] = FileFormat.PNG,
    width: WidthOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only print all runs as JSON; write no file.")] = False,
) -> None:
    """Show the settings of a sweep from best to worst, the effect of each value, and the winner.

    The ranking uses the monitored metric, never the test set. Overwrites sweep.csv, sweep.md and figures/.
    """
    from digitlab.sweeps.report import print_report, report_json, write_report
    from digitlab.sweeps.state import read_runs
    from digitlab.sweeps.table import SweepTable

    path = folder.expanduser().resolve()
    table = SweepTable(path.name, read_runs(path))
    if not table.runs:
        raise ConfigError("SWEEP_FOLDER", folder, "has no runs yet")
    if as_json:
        print(report_json(table))
        return
    write_report(table, path)
    print_report(table)
    if figures and table.metric is not None:
        from digitlab.sweeps.gallery import write_figures

        chosen = None if width is None else width.value
        for written in write_figures(table, path / "figures", file_format=file_format.value, width=chosen):
            print(written)
