"""``digitlab sweep``: print the table of a sweep and its best run, and draw its figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from digitlab.cli.app import FileFormat, WidthOption, app, refuse_without_effect
from digitlab.core.errors import ConfigError
from digitlab.core.files import expand_home

if TYPE_CHECKING:
    from digitlab.sweeps.importance import Importances
    from digitlab.sweeps.table import SweepTable


@app.command()
def sweep(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP_FOLDER", help="The folder that the sweep printed last.")],
    figures: Annotated[bool, typer.Option(help="Also draw the figures in SWEEP_FOLDER/figures.")] = True,
    file_format: Annotated[FileFormat, typer.Option("--format", help="File format of the figures.")] = FileFormat.PNG,
    width: WidthOption = None,
    importance: Annotated[
        bool,
        typer.Option("--importance", help="Also print and draw how much each key matters. Needs the extra search."),
    ] = False,
    table_format: Annotated[
        Literal["latex", "markdown", "csv"] | None,
        typer.Option("--table", help="Print only a table for a paper; write no file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only all runs as JSON; write no file.")] = False,
) -> None:
    """Show the settings of a sweep from best to worst, the effect of each value, and the winner.

    The ranking uses the monitored metric, never the test set. Overwrites sweep.csv, sweep.md and figures/.
    """
    from digitlab.sweeps.publication import publication_table
    from digitlab.sweeps.report import print_report, report_json, write_report
    from digitlab.sweeps.state import read_runs
    from digitlab.sweeps.table import SweepTable

    if as_json and table_format is not None:
        raise ConfigError("--table", table_format, "can't be combined with --json: choose one of them")
    figure_options = {"format": file_format is not FileFormat.PNG, "width": width is not None}
    if as_json or table_format is not None:
        reason = f"{'--json' if as_json else '--table'} draws no figures"
        refuse_without_effect(reason, importance=importance, **figure_options)
    if not figures:
        refuse_without_effect("--no-figures draws none", **figure_options)
    path = expand_home(folder).resolve()
    _require_sweep(folder)
    table = SweepTable(path.name, read_runs(path))
    if not table.runs:
        raise ConfigError("SWEEP_FOLDER", folder, "has no runs yet: give the folder that the sweep printed last")
    # JSON and tables for papers go into a file or to another program, so nothing else may be printed.
    if as_json:
        print(report_json(table))
        return
    if table_format is not None:
        print(publication_table(table, table_format), end="")
        return
    by_data_set = _importances(table) if importance else {}
    try:
        write_report(table, path)
    finally:
        # Also if another user owns the folder.
        print_report(table)
    _print_importances(by_data_set)
    if figures and table.metric is not None:
        from digitlab.sweeps.gallery import write_figures

        # Leave out data sets without importances: for these, the value is a text, the reason.
        drawable = {name: each for name, each in by_data_set.items() if not isinstance(each, str)}
        written = write_figures(
            table, path / "figures", drawable,
            file_format=file_format.value, width=None if width is None else width.value,
        )  # fmt: skip
        for figure in written:
            print(figure)


def _require_sweep(folder: Path) -> None:
    """Raise ``ConfigError`` if ``folder`` can't be that of a sweep. The message says what is probably meant."""
    from digitlab.config.compose import ROOT
    from digitlab.config.place import train_command
    from digitlab.config.suggestions import similar_folder
    from digitlab.core.files import short_path
    from digitlab.results.run_hints import placeholder_hint
    from digitlab.sweeps.manifest import manifest_file

    path = expand_home(folder).resolve()
    if path.is_dir():
        if (path / ".hydra").is_dir() and manifest_file(path.parent).exists():
            raise ConfigError("SWEEP_FOLDER", folder, f"is a run of the sweep {short_path(path.parent)}: give that one")
        return
    if path.exists():
        of_sweep = manifest_file(path.parent).exists()
        hint = short_path(path.parent) if of_sweep else "the folder of a sweep"
        raise ConfigError("SWEEP_FOLDER", folder, f"is a file: give {hint}")
    if (meaning := placeholder_hint(folder)) is not None:
        raise ConfigError("SWEEP_FOLDER", folder, meaning)
    sweeps = [path for path in (ROOT / "outputs" / "sweeps").glob("*") if manifest_file(path).exists()]
    # In a longer path, or in the name of a sweep, "=" belongs to the name.
    if "=" in str(folder) and len(folder.parts) == 1 and folder.name not in {sweep.name for sweep in sweeps}:
        command = " ".join([*train_command(), "-m", str(folder)])
        raise ConfigError("SWEEP_FOLDER", folder, f"is no folder: a sweep starts with {command}")
    hint = similar_folder(folder.name, sweeps, kind="sweep")
    raise ConfigError("SWEEP_FOLDER", folder, f"there is no such folder{hint}")


def _importances(table: "SweepTable") -> "dict[str, Importances | str]":
    """Return the importances of the keys for each data set, or a text that says why there are none.

    Raises ``ConfigError`` if Optuna is not installed.
    """
    from digitlab.sweeps.importance import HINT, importances

    by_data_set = {part.name: importances(part) for part in table.by_data_set()}
    # The user asked for the importances, so a missing library is an error, not a note.
    if HINT in by_data_set.values():
        raise ConfigError("", "--importance", HINT)
    return by_data_set


def _print_importances(by_data_set: "dict[str, Importances | str]") -> None:
    from digitlab.results.table import print_table

    for name, each in by_data_set.items():
        if isinstance(each, str):
            print(f"note: {name}: {each}")
            continue
        rows = [
            [key.key, f"{100 * key.share:.0f} %", f"{100 * key.interval[0]:.0f} to {100 * key.interval[1]:.0f} %"]
            for key in each.keys
        ]
        print_table(["key", "importance", "95 % interval"], rows, title=f"{name}: {each.note}")
