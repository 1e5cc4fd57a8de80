"""``digitlab reproduce``: the results of the reports again, and the table that compares them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Rows or experiments; all of them by default.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each row (default 3, with --quick 1).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run of each, in seconds, kept apart.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Only the table of what is there; nothing is run.")] = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Write what was measured into the headers of conf/experiment.")
    ] = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="Draw the curves of the sweeps and variants into ROOT/figures.")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="Where the runs lie (default outputs/reproduce, with --quick outputs/reproduce-quick)."),
    ] = None,
) -> None:
    """Run the recipes of the reports and compare. Finished runs are kept; a row that fails is named, the rest goes on.

    Started several times at once, the processes share the work. The exit code is 1 if a run failed.
    """
    from digitlab.config.compose import ROOT
    from digitlab.reproduce.registry import chosen
    from digitlab.reproduce.rendering import write_headers, write_tables
    from digitlab.reproduce.runner import LeftOut, make_runs
    from digitlab.reproduce.table import Measured

    rows = chosen(names or [])
    root = ROOT / "outputs" / f"reproduce{'-quick' * quick}" if root is None else root
    root.mkdir(parents=True, exist_ok=True)
    failures = 0
    try:
        if not table:
            for row, replicate, error in make_runs(rows, root, seeds=seeds or (1 if quick else 3), quick=quick):
                failures += not isinstance(error, LeftOut | None)
                outcome = "done" if error is None else " ".join(f"{type(error).__name__}: {error}".split())
                print(f"{row.name} {replicate}: {outcome}", file=sys.stderr if error else sys.stdout, flush=True)
    finally:
        measured = Measured(root)
        written = write_tables(root, measured)
        if headers:
            written += write_headers(measured)
        if figures:
            from digitlab.reproduce.gallery import write_figures  # Matplotlib, which the tables do without

            written += write_figures(measured, root / "figures")
        for path in written:
            print(path)
    if failures:
        sys.exit(1)
