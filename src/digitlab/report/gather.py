"""From the folders that a user names to the page: which runs there are, and which of the two pages tells of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from yaml import YAMLError

from digitlab.core.errors import ConfigError, RunError
from digitlab.core.files import write_atomically
from digitlab.report.page import run_page, runs_page
from digitlab.report.records import ReportedRun, read_record
from digitlab.report.tables import tables_in
from digitlab.results.folder import RunFolder, find_runs


def write_report(folders: Sequence[Path], out: Path, *, force: bool = False) -> list[str]:
    """Write the report on all runs in ``folders`` to ``out``; a line is returned for each that can't be read.

    A folder that is a run itself gets the page of a run; else there is a table of all runs under the folders, and links
    lead to them from where ``out`` lies. Raises ``ConfigError`` where a folder is not there or holds no run, and where
    ``out`` is there already and ``force`` is not given; ``RunError`` where no epoch of any run has finished.
    """
    roots = [folder.resolve() for folder in folders]
    runs = _runs(roots)
    if out.exists() and not force:
        raise ConfigError("--out", out, "is there already: --force overwrites it")
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError("--out", out, "must be a file in a folder that is there")
    named_from = Path(os.path.commonpath(roots))
    records, refused = _read(runs, named_from)
    if not records:
        raise RunError("; ".join(refused))
    if not any(record.epochs for record in records):
        raise RunError(f"{', '.join(map(str, folders))}: no epoch has finished yet, so there is nothing to report")
    if [run.path for run in runs] == roots[:1]:
        from digitlab.report.pictures import pictures_of  # torch, which a comparison does without

        pictures, left_out = pictures_of(records[0])
        page = run_page(records[0], pictures=pictures, left_out=left_out)
        refused += left_out
    else:
        page = _comparison(records, roots, beside=out.parent.resolve())
    write_atomically(out, page.encode())
    return refused


def _runs(roots: Sequence[Path]) -> list[RunFolder]:
    runs: dict[Path, RunFolder] = {}
    for root in roots:
        if not root.is_dir():
            raise ConfigError("FOLDER", root, "there is no such folder")
        found = find_runs(root)
        if not found:
            raise ConfigError("FOLDER", root, "holds no run folder")
        runs |= {run.path: run for run in found}
    return list(runs.values())


def _read(runs: Sequence[RunFolder], named_from: Path) -> tuple[list[ReportedRun], list[str]]:
    records, refused = [], []
    for run in runs:
        try:
            records.append(read_record(run, named_from=named_from))
        except (OSError, ValueError, YAMLError) as error:
            refused.append(f"{run.path}: can't be read: {' '.join(str(error).split())}")
    return records, refused


def _comparison(records: Sequence[ReportedRun], roots: Sequence[Path], *, beside: Path) -> str:
    tables, winner = [], None
    for root in roots:
        own, won = tables_in(root)
        tables += own
        if len(roots) == 1:
            winner = next((record for record in records if record.folder.path == won), None)
    title = ", ".join(root.name for root in roots)
    return runs_page(records, title=title, tables=tables, winner=winner, beside=beside)
