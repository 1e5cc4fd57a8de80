"""Collects the runs in the folders that the user names, and writes the page of one run or of many runs."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from yaml import YAMLError

from digitlab.core.errors import ConfigError, RunError
from digitlab.core.files import error_text, require_writable, write_atomically
from digitlab.report.images import ImageBrowser, browsers_of
from digitlab.report.page import Picture, run_page, runs_page
from digitlab.report.records import ReportedRun, read_record
from digitlab.report.sweep_analysis import analyse_sweep
from digitlab.report.tables import Table, read_sweep, sweep_tables, sweep_winner, tables_in
from digitlab.results.folder import RunFolder, find_runs
from digitlab.results.run_hints import require_folder, why_no_runs


def write_report(
    folders: Sequence[Path], out: Path, *, force: bool = False, progress: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Write the report on all runs in ``folders`` to ``out``; return one message per run or figure that was skipped.

    ``progress`` is called with a line of text before each slow step.

    If the only folder is a run, the report is the page of that run; otherwise it compares all runs under the folders,
    with links relative to ``out``. Raises ``ConfigError`` if a folder does not exist or contains no run, or if ``out``
    exists and ``force`` is off; ``RunError`` if no run has a finished epoch or none can be read.
    """
    if out.suffix not in (".html", ".htm"):
        raise ConfigError("--out", out, "must end in .html: a report is a web page; browsers print it as PDF")
    roots = [require_folder(folder, "FOLDER") for folder in folders]
    unreadable_folders: list[str] = []
    runs = _runs(roots, unreadable_folders)
    require_writable(out, option="--out", force=force)
    names_relative_to = Path(os.path.commonpath(roots))
    progress(f"reading {len(runs)} run{'s' * (len(runs) != 1)}")
    records, skipped = _read_records(runs, names_relative_to)
    skipped += unreadable_folders
    if not records:
        raise RunError("; ".join(skipped))
    if not any(record.epochs for record in records):
        raise RunError(f"{', '.join(map(str, folders))}: no epoch is finished, so there is nothing to report")
    browsers, unreadable = browsers_of(records)
    # One folder, which is a run itself. A folder that contains one run gets the page of many runs.
    if [run.path for run in runs] == roots[:1]:
        from digitlab.report.pictures import pictures_of  # loads torch, which a comparison does not need

        pictures, not_applicable = pictures_of(records[0], progress=progress)
        not_applicable += unreadable
        browser = next(iter(browsers.values()), None)
        page = run_page(records[0], pictures=pictures, browser=browser, skipped=not_applicable)
        skipped += not_applicable
    else:
        page, not_applicable = _many_runs(
            records, roots, links_from=out.parent.resolve(), browsers=browsers, progress=progress
        )
        skipped += [*not_applicable, *unreadable]
    # A path can have bytes that are no text.
    write_atomically(out, page.encode(errors="backslashreplace"))
    return skipped


def _runs(roots: Sequence[Path], unreadable: list[str]) -> list[RunFolder]:
    """Return all runs under the folders, each once, and add a message to ``unreadable`` for each unreadable folder.

    Raises ``ConfigError`` if a folder has no run.
    """
    runs: dict[Path, RunFolder] = {}
    for root in roots:
        runs_here = find_runs(
            root, unreadable=lambda error: unreadable.append(f"{error.filename}: cannot be read: {error.strerror}")
        )
        if not runs_here:
            raise ConfigError("FOLDER", root, why_no_runs(root))
        runs |= {run.path: run for run in runs_here}
    return list(runs.values())


def _read_records(runs: Sequence[RunFolder], names_relative_to: Path) -> tuple[list[ReportedRun], list[str]]:
    """Return the data of all runs that can be read, and a message for each other run."""
    records, skipped = [], []
    for run in runs:
        try:
            records.append(read_record(run, names_relative_to=names_relative_to))
        except (OSError, ValueError, YAMLError, RunError) as error:
            skipped.append(f"{run.path}: cannot be read: {error_text(error)}")
    return records, skipped


def _many_runs(
    records: Sequence[ReportedRun],
    roots: Sequence[Path],
    *,
    links_from: Path,
    browsers: Mapping[str, ImageBrowser],
    progress: Callable[[str], None],
) -> tuple[str, list[str]]:
    """Return the page of many runs, and a message for each analysis that does not apply to a sweep among them."""
    tables, pictures, skipped, winner = list[Table](), list[Picture](), list[str](), None
    for root in roots:
        tables += tables_in(root)
        sweep = read_sweep(root)
        if sweep is None:
            continue
        tables += sweep_tables(sweep, named=len(roots) > 1)
        progress(f"comparing the settings of {root.name}")
        analysis = analyse_sweep(sweep)
        tables += analysis.tables
        pictures += analysis.pictures
        skipped += analysis.skipped
        # With several folders, the page compares more runs than this sweep, and its winner need not be the best one.
        if len(roots) == 1:
            winner_folder = sweep_winner(sweep)
            winner = next((record for record in records if record.folder.path == winner_folder), None)
    page = runs_page(
        records, title=", ".join(root.name for root in roots), tables=tables, winner=winner, links_from=links_from,
        pictures=pictures, browsers=browsers, skipped=skipped,
    )  # fmt: skip
    return page, skipped
