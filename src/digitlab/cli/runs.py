"""``digitlab runs``: print a table of all runs with their metrics."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app
from digitlab.core.errors import ConfigError


@app.command()
def runs(
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="The same as --root FOLDER.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where to look for run folders (default: outputs).")] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Sort by this metric, best first, e.g. test/accuracy.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with all metrics, not rounded.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with all metrics, not rounded: one object per run.")
    ] = False,
) -> None:
    """List all runs, the oldest first. Folders that cannot be read are reported on stderr.

    With --sort, each data set has a ranking of its own. Complete runs come first, then those cut short by debug=limit.
    """
    from digitlab.config.compose import ROOT
    from digitlab.results.folder import find_runs
    from digitlab.results.outcome import unreadable_reason
    from digitlab.results.table import Row, print_runs, rows_json, run_row, runs_csv, sort_rows

    if csv and as_json:
        raise ConfigError("", "--csv --json", "can't be given together: choose one of them")
    root = _given_folder(folder, root)
    root = ROOT / "outputs" if root is None else root
    rows: list[Row] = []
    # ``outputs`` itself is missing before the first run.
    for run in find_runs(root, unreadable=_report_unreadable if root.exists() else None):
        try:
            rows.append(run_row(run))
        except (OSError, ValueError) as error:
            print(f"{run.path}: cannot be read: {unreadable_reason(error)}", file=sys.stderr)
    if not rows:
        print(f"no runs under {root}", file=sys.stderr)
        if as_json:
            print(rows_json(rows))
        return
    if sort is not None:
        rows = sort_rows(rows, sort)
    if as_json:
        print(rows_json(rows))
    elif csv:
        print(runs_csv(rows), end="")
    else:
        print_runs(rows, metric=sort)


def _report_unreadable(error: OSError) -> None:
    print(f"{error.filename}: cannot be read: {error.strerror}", file=sys.stderr)


def _given_folder(folder: Path | None, root: Path | None) -> Path | None:
    """Return the one of both that was given. Raises ``ConfigError`` if both are given or there is no such folder."""
    if folder is not None and root is not None:
        raise ConfigError("--root", root, f"can't be given together with the folder {folder}")
    given, option = (folder, "FOLDER") if root is None else (root, "--root")
    if given is None:
        return None
    if given.suffix in (".csv", ".json") and not given.is_dir():
        raise ConfigError(option, given, f"there is no such folder; write into a file with > {given}")
    if "=" in str(given) and len(given.parts) == 1 and not given.exists():
        allowed = "is no folder: this command lists all runs; other programs can select some from --json"
        raise ConfigError(option, given, allowed)
    from digitlab.results.run_hints import require_folder

    return require_folder(given, option)
