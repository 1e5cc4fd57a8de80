"""Checks the folder of ``resume=FOLDER`` before torch is imported. ``train.py`` and ``digitlab.resume`` call it."""

from digitlab.core.errors import ConfigError
from digitlab.core.files import expand_home
from digitlab.results.folder import RunFolder
from digitlab.results.run_hints import why_no_run
from digitlab.sweeps.manifest import manifest_file

# Values that users write to resume their newest run.
_NEWEST = ("true", "yes", "last", "latest", "newest", "1")


def check_resume_folder(folder: str) -> None:
    """Raise ``ConfigError`` if ``folder`` is not a run folder. The message names the run that is probably meant."""
    path = expand_home(folder)
    if folder.lower() in _NEWEST and not path.exists():
        raise ConfigError("resume", folder, "must be a run folder, or auto for the newest run with the same settings")
    if manifest_file(path).is_file():
        raise ConfigError("resume", folder, "is a sweep: the command that started it resumes it")
    try:
        # A run that was killed before its first checkpoint has only this file, and it can be resumed.
        RunFolder(path).read_plain_config()
    except ConfigError as error:
        raise ConfigError("resume", folder, why_no_run(path, error.allowed)) from error
