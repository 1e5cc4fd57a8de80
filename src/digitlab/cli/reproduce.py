"""``digitlab reproduce``: repeat the experiments of the course reports and compare the results in a table.

A row of the table is one experiment. It is run with several seeds or, in a cross-validation, on several folds: its
replicates.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Rows or experiments; all by default.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each row (default 3, with --quick 1).")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A test run of a few seconds for each row, in a separate folder.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Only write the table of existing runs; train nothing.")
    ] = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Write the measured results into the headers of conf/experiment.")
    ] = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="Draw the curves of the sweeps and variants into ROOT/figures.")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs (default outputs/reproduce, with --quick outputs/reproduce-quick)."),
    ] = None,
) -> None:
    """Run the recipes of the reports and compare the results. Finished runs are kept; a failing row stops no other row.

    Several processes started at the same time share the work. The exit code is 1 if a run failed.
    """
    from digitlab.config.compose import ROOT
    from digitlab.reproduce.registry import select_rows
    from digitlab.reproduce.rendering import write_headers, write_tables
    from digitlab.reproduce.runner import LeftOut, make_runs
    from digitlab.reproduce.table import Measured

    rows = select_rows(names or [])
    root = ROOT / "outputs" / f"reproduce{'-quick' * quick}" if root is None else root
    root.mkdir(parents=True, exist_ok=True)
    failures = 0
    try:
        if not table:
            for row, replicate, error in make_runs(rows, root, seeds=seeds or (1 if quick else 3), quick=quick):
                # A row that is left out because a package is missing is no failure.
                failures += error is not None and not isinstance(error, LeftOut)
                outcome = "done" if error is None else " ".join(f"{type(error).__name__}: {error}".split())
                print(f"{row.name} {replicate}: {outcome}", file=sys.stderr if error else sys.stdout, flush=True)
    finally:
        measured = Measured(root)
        written = write_tables(root, measured)
        if headers:
            written += write_headers(measured)
        if figures:
            from digitlab.reproduce.gallery import write_figures  # loads Matplotlib, which the tables do not need

            written += write_figures(measured, root / "figures")
        for path in written:
            print(path)
    if failures:
        sys.exit(1)
