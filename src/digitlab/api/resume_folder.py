"""Checks the folder of ``resume=FOLDER`` before torch is imported. ``train.py`` calls it."""

from pathlib import Path

from digitlab.config.compose import ROOT
from digitlab.config.suggestions import similar_folder
from digitlab.core.errors import ConfigError
from digitlab.results.folder import RunFolder, find_runs


def check_resume_folder(folder: str) -> None:
    """Raise ``ConfigError`` if ``folder`` is not a run folder. The message names the most similar run folder."""
    path = Path(folder).expanduser()
    # The configuration is enough: a run that was killed before its first checkpoint resumes from the beginning.
    if RunFolder(path).config.exists():
        return
    if not path.exists():
        hint = similar_folder(folder, [run.path for run in find_runs(ROOT / "outputs")], kind="run folder")
        raise ConfigError("resume", folder, f"there is no such folder{hint}")
    # In a sweep or in the folder of a data set and a model, the user probably wants one of its runs.
    runs = find_runs(path)
    hint = f"; its newest run is {Path(folder) / runs[-1].path.relative_to(path)}" if runs else ""
    raise ConfigError("resume", folder, f"is no run folder: it has no .hydra/config.yaml{hint}")
