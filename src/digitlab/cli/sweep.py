"""``digitlab sweep``: the table of a sweep, its figures, and its best run."""

from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app
from digitlab.core.errors import ConfigError


@app.command()
def sweep(
    folder: Annotated[
        Path, typer.Argument(metavar="SWEEP_FOLDER", help="The folder that the sweep's last line named.")
    ],
    figures: Annotated[bool, typer.Option(help="Draw FOLDER/figures/*.png as well.")] = True,
) -> None:
    """Show the settings of a sweep from best to worst, the effect of each value, and the winner.

    Ranked by the monitored metric, never by the test set. Writes sweep.csv, sweep.md and figures/ anew.
    """
    from digitlab.sweeps.report import print_report, write_report
    from digitlab.sweeps.state import read_runs
    from digitlab.sweeps.table import SweepTable

    path = folder.expanduser().resolve()
    table = SweepTable(path.name, read_runs(path))
    if not table.runs:
        raise ConfigError("SWEEP_FOLDER", folder, "has no runs yet")
    write_report(table, path)
    print_report(table)
    if figures and table.metric is not None:
        from digitlab.sweeps.gallery import write_figures

        for written in write_figures(table, path / "figures"):
            print(written)
