"""Opens the folder that the user gives as a run; if it is none, the error says which run is probably meant.

Commands that take a run folder use it. The search is short, because the folder can be any: a home folder, or ``/``.
This module does not import torch, so a wrong folder is reported at once.
"""

import os
import time
from collections import deque
from pathlib import Path

from digitlab.config.compose import ROOT
from digitlab.config.suggestions import similar_folder
from digitlab.core.errors import ConfigError
from digitlab.core.files import expand_home, short_path
from digitlab.results.folder import RunFolder

# Words that stand for a folder in the documentation.
_PLACEHOLDERS = ("RUN_FOLDER", "SWEEP_FOLDER", "FOLDER")
# After this time, the message appears with what was found.
_SECONDS = 2.0


def open_run(folder: str | Path) -> RunFolder:
    """Return the run in ``folder``. Raises ``ConfigError`` if it is not a run folder."""
    run = RunFolder(expand_home(folder).resolve())
    try:
        run.read_config()
    except ConfigError as error:
        raise ConfigError("RUN_FOLDER", folder, why_no_run(run.path, error.allowed)) from error
    return run


def require_folder(folder: Path, option: str) -> Path:
    """Return the absolute path of ``folder``, the value of ``option``. Raises ``ConfigError`` if it is no folder."""
    path = expand_home(folder).resolve()
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError(option, folder, "is a file: give a folder")
    if hint := placeholder_hint(folder):
        raise ConfigError(option, folder, hint)
    runs, _ = nearby_runs(ROOT / "outputs")
    # Sweeps and folders of runs can be given too.
    folders = dict.fromkeys(each for run in runs for each in (run.path, run.path.parent))
    hint = similar_folder(str(folder), folders, kind="folder with runs")
    raise ConfigError(option, folder, f"there is no such folder{hint}")


def placeholder_hint(folder: Path) -> str | None:
    """Return what the user must write instead of ``RUN_FOLDER`` or a similar word; None for any other folder."""
    if folder.name.strip("<>{}…").upper() not in _PLACEHOLDERS:
        return None
    runs, _ = nearby_runs(ROOT / "outputs")
    newest = f"; the newest run is {short_path(runs[-1].path)}" if runs else ""
    return f"stands for a folder: the last line that a training prints is the folder of its run{newest}"


def why_no_run(folder: Path, reason: str) -> str:
    """Return why ``folder`` is no run folder, and the run that the user probably means.

    ``reason`` is the answer for a folder that exists.
    """
    if not folder.exists():
        return placeholder_hint(folder) or f"there is no such folder{_similar_run(folder)}"
    runs_above = [path for path in folder.resolve().parents if RunFolder(path).config.exists()]
    if runs_above:
        return f"is inside a run folder: give {short_path(runs_above[0])}"
    if not folder.is_dir():
        return "is a file: give the folder of the run"
    return f"{reason}{_newest_run(folder)}"


def why_no_runs(folder: Path) -> str:
    """Return why no run was found in ``folder``, which exists: there is none, or ``folder`` is a damaged run folder."""
    try:
        RunFolder(folder).read_plain_config()
    except ConfigError as error:
        if RunFolder(folder).last.exists():
            return error.allowed
    return "contains no run folder"


def _similar_run(folder: Path) -> str:
    """Return ``; the most similar run folder is …`` for a folder that does not exist; empty without any run."""
    runs, _ = nearby_runs(ROOT / "outputs")
    return similar_folder(str(folder), [run.path for run in runs], kind="run folder")


def _newest_run(folder: Path) -> str:
    """Return ``; its newest run is …`` for a folder that contains runs at any depth; empty if it has none."""
    if (folder / ".hydra").exists():
        return ""  # it is a run folder itself, which is damaged
    runs, complete = nearby_runs(folder)
    if runs:
        within = "" if complete else f" that was found in {_SECONDS:g} seconds"
        return f"; its newest run{within} is {short_path(runs[-1].path)}"
    return "" if complete else f"; no run folder was found in it in {_SECONDS:g} seconds"


def nearby_runs(root: Path, *, seconds: float = _SECONDS) -> tuple[list[RunFolder], bool]:
    """Return run folders under ``root``, the newest last, and whether these are all.

    The search starts near ``root`` and ends after ``seconds``. ``results.folder.find_runs`` has no such limit.
    """
    started: list[tuple[float, Path]] = []
    waiting = deque([root])
    ends_at = time.monotonic() + seconds
    while waiting and time.monotonic() < ends_at:
        folder = waiting.popleft()
        try:
            started.append(((folder / ".hydra").stat().st_mtime, folder))
            continue  # there are no run folders inside a run folder
        except OSError:
            pass
        try:
            with os.scandir(folder) as entries:
                waiting.extend(Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            continue  # the user may not read this folder, or it is a file
    return [RunFolder(path) for _, path in sorted(started)], not waiting
