"""``digitlab reproduce``: repeat the experiments of the course reports and compare the results in a table.

A row of the table is one experiment. It is run with several seeds or, in a cross-validation, on several folds: its
replicates.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.cli.app import app, print_progress
from digitlab.core.signals import Interrupted

if TYPE_CHECKING:
    from digitlab.reproduce.rows import Row


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

    All rows with three seeds take about three hours on one core. Several processes started at the same time share the
    work. The exit code is 1 if a run failed.
    """
    from digitlab.config.compose import ROOT
    from digitlab.reproduce.registry import select_rows
    from digitlab.reproduce.rendering import write_headers, write_tables
    from digitlab.reproduce.table import Measured

    rows = select_rows(names or [])
    root = ROOT / "outputs" / f"reproduce{'-quick' * quick}" if root is None else root
    root.mkdir(parents=True, exist_ok=True)
    failures = 0
    try:
        if not table:
            replicates = seeds or (1 if quick else 3)
            _announce(rows, root, seeds=replicates, all_rows=not names, quick=quick)
            failures = _make(rows, root, seeds=replicates, quick=quick)
    except Interrupted as interrupted:
        # The same command continues all runs; ``resume=`` would continue the run that was stopped, and no other.
        how = shlex.join(["digitlab", *sys.argv[1:]])
        raise Interrupted(interrupted.number, interrupted.where, how=how) from None
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


def _announce(rows: "Sequence[Row]", root: Path, *, seeds: int, all_rows: bool, quick: bool) -> None:
    """Say on stderr, before the first run, how many runs are missing; if these are hours of work, how to make fewer."""
    from digitlab.reproduce.outcomes import read_outcome
    from digitlab.reproduce.runner import run_folder

    folders = [run_folder(root, row, replicate) for row in rows for replicate in range(row.replicates(seeds))]
    missing = sum(read_outcome(folder) is None for folder in folders)
    text = f"{missing} of {len(folders)} runs of {len(rows)} rows are missing in {root}"
    if missing and all_rows and not quick:
        text += (
            "; all rows with three seeds take about three hours on one core; Ctrl-C stops, and the same command"
            " continues; --quick makes short runs, and digitlab reproduce NAME only some, for example r2_softmax"
        )
    print_progress(text)


def _make(rows: "Sequence[Row]", root: Path, *, seeds: int, quick: bool) -> int:
    """Make the missing runs, print a line for each, and return how many failed."""
    from digitlab.reproduce.runner import LeftOut, make_runs

    failures = 0
    for row, replicate, error in make_runs(rows, root, seeds=seeds, quick=quick):
        failures += not isinstance(error, LeftOut | None)
        outcome = "done" if error is None else " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{row.name} {replicate}: {outcome}", file=sys.stderr if error else sys.stdout, flush=True)
    return failures
