"""The manifest of a sweep, ``sweep.json``: the number, folder and overrides of each run.

It does not store how far a run got; only the run's own folder says that. A run is identified by the fingerprint of its
configuration. So the same command, or another command that contains some of the same runs, finds the runs that exist
and resumes them. Nothing here imports torch.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from digitlab.config.fingerprint import fingerprint
from digitlab.core.errors import ConfigError, RunError
from digitlab.core.files import write_atomically
from digitlab.results.folder import RunFolder

# Raised when the content changes so that older versions would misread it.
_FORMAT = 1
# File systems allow 255 bytes; a shorter limit keeps listings readable.
_MAX_NAME_BYTES = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of the sweep: its number, the name of its folder, the fingerprint of its configuration, its overrides."""

    number: int
    folder: str
    fingerprint: str
    overrides: list[str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The runs of the sweep in ``path``, ordered by number. A run keeps its number for ever.

    ``keys`` are the keys that the last command swept; their values form the names of new folders. ``halving`` says
    whether the last command ended the worse runs early.
    """

    path: Path
    runs: list[Entry]
    keys: list[str]
    halving: bool = False

    def folder(self, entry: Entry) -> RunFolder:
        return RunFolder(self.path / entry.folder)

    def entry(self, folder: str) -> Entry | None:
        return next((entry for entry in self.runs if entry.folder == folder), None)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read the manifest of the sweep in ``path``.

        Raises ``ConfigError`` if there is none and ``RunError`` if it is damaged.
        """
        file = manifest_file(path)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            # Check the format first: another version's entries need not have these fields.
            if content["format"] != _FORMAT:
                raise RunError(
                    f"{file}: has format {content['format']}, but this version reads format {_FORMAT}: use the version "
                    f"that wrote it, or another sweep.name"
                )
            return cls(
                path,
                [Entry(**entry) for entry in content["runs"]],
                list(content["keys"]),
                # Manifests from before there was halving lack this key; they have the same format otherwise.
                content.get("halving", False),
            )
        # A wrong path is a mistake on the command line. A damaged file is not, so it is another kind of error below.
        except (FileNotFoundError, NotADirectoryError):
            reason = f"is no sweep: it has no {file.name}" if path.is_dir() else "there is no such folder"
            if sweeps := sorted(path.glob(f"*/{file.name}"), key=lambda each: each.stat().st_mtime):
                reason += f"; the newest sweep in it is {sweeps[-1].parent.name}"
            raise ConfigError("SWEEP_FOLDER", path, reason) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = f"is damaged ({type(error).__name__}): move it away, and the same command starts the sweep anew"
            raise RunError(f"{file}: {reason}; the run folders next to it stay") from error

    def write(self) -> None:
        content = {
            "format": _FORMAT,
            "keys": self.keys,
            "halving": self.halving,
            "runs": [asdict(entry) for entry in self.runs],
        }
        write_atomically(manifest_file(self.path), json.dumps(content, indent=1).encode() + b"\n")

    def with_run(self, fingerprint: str, overrides: Sequence[str]) -> "Manifest":
        """The manifest with one more run."""
        # Folders count too: a run whose manifest was lost must not be overwritten by a new one with its number.
        numbers = [entry.number for entry in self.runs] + list(_numbers_in(self.path))
        number = max(numbers, default=-1) + 1
        # Only the swept values name the folder: the others are the same for all runs of the sweep.
        swept = [override for override in overrides if override.partition("=")[0] in self.keys]
        name = f"{number}_{folder_name(','.join(swept))}" if swept else str(number)
        entry = Entry(number, name, fingerprint, list(overrides))
        return replace(self, runs=[*self.runs, entry])


def manifest_file(path: Path) -> Path:
    return path / "sweep.json"


def _numbers_in(path: Path) -> Iterator[int]:
    for folder in path.iterdir() if path.is_dir() else ():
        number = folder.name.partition("_")[0]
        if number.isdecimal():
            yield int(number)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the manifest in ``path`` while changing it, because jobs may run in several processes."""
    from digitlab.core.locks import locked_file

    with locked_file(path / ".manifest.lock"):
        yield


def create(path: Path, keys: Sequence[str], *, halving: bool = False) -> None:
    """Write the manifest for a command that sweeps ``keys``; runs that exist stay. Raises ``RunError`` if damaged."""
    with locked(path):
        # The entries of earlier commands stay: their runs must be found again, and their numbers never be reused.
        runs = Manifest.read(path).runs if manifest_file(path).exists() else []
        Manifest(path, runs, list(keys), halving).write()


def planned_folder(path: Path, config: DictConfig, overrides: Sequence[str]) -> str:
    """The folder name of the run with ``config`` in ``path``: the existing one, or the one it would get next.

    Writes nothing. Raises ``RunError`` for a damaged manifest.
    """
    # Hydra resolves folder names also for --cfg and for commands that only show something, before any manifest exists.
    manifest = Manifest.read(path) if manifest_file(path).exists() else Manifest(path, [], [])
    return _with_entry(manifest, fingerprint(config), overrides)[1].folder


def add_jobs(path: Path, jobs: Iterable[tuple[DictConfig, Sequence[str]]]) -> list[str]:
    """Add jobs, given as configurations with their overrides, to the manifest in ``path``; return their folder names.

    Launchers call it before they run the jobs. A run that is in the manifest already keeps its folder. Raises what
    ``Manifest.read`` raises.
    """
    # Fingerprints take the longest, so they are computed before the lock is taken.
    digests = [(fingerprint(config), overrides) for config, overrides in jobs]
    folders = []
    with locked(path):
        before = manifest = Manifest.read(path)
        for digest, overrides in digests:
            manifest, entry = _with_entry(manifest, digest, overrides)
            folders.append(entry.folder)
        # A sweep that resumes usually changes nothing, and then the file stays untouched.
        if manifest != before:
            manifest.write()
    return folders


def add_missing(folder: Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Add the run in ``folder`` to the manifest next to it, unless it is there; the folder name starts with its number.

    Needed for launchers of other packages, which don't call ``add_jobs``. Raises what ``Manifest.read`` raises.
    """
    with locked(folder.parent):
        manifest = Manifest.read(folder.parent)
        # Read again under the lock: another process may have added its own run in the meantime.
        if manifest.entry(folder.name) is None:
            number = int(folder.name.partition("_")[0])
            entry = Entry(number, folder.name, fingerprint(config), list(overrides))
            replace(manifest, runs=[*manifest.runs, entry]).write()


def _with_entry(manifest: Manifest, digest: str, overrides: Sequence[str]) -> tuple[Manifest, Entry]:
    """The manifest with the run of fingerprint ``digest``, and that run's entry with the new ``overrides``."""
    # Identity is the configuration, not the text that was typed and not the place of the job in the grid.
    known = next((entry for entry in manifest.runs if entry.fingerprint == digest), None)
    if known is None:
        manifest = manifest.with_run(digest, overrides)
        return manifest, manifest.runs[-1]
    # The user may type the same run differently, such as 1e-1 for 0.1. The latest text matches the latest command.
    entry = replace(known, overrides=list(overrides))
    return replace(manifest, runs=[entry if run is known else run for run in manifest.runs]), entry


def names_runs(sweep: object) -> bool:
    """Whether the manifest names the run folders of a sweep; ``sweep`` is the node ``hydra.sweep``.

    It does not if the user typed ``hydra.sweep.subdir``. Then a folder may be reused for another configuration, so
    nothing may be resumed from it.
    """
    settings = OmegaConf.to_container(sweep, resolve=False)
    assert isinstance(settings, dict)
    return str(settings["subdir"]).startswith("${run_folder:")


def run_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of a job that describe the run, without those that describe its sweep."""
    return [override for override in overrides if not override.lstrip("+").startswith("sweep.")]


def folder_name(text: str) -> str:
    """``text`` as a valid file name of at most 100 bytes; texts that would look the same get different digests."""
    # Leading dots would hide the folder, and a leading hyphen would look like an option to shell commands.
    name = re.sub(r"[^\w.,=+-]+", "-", text).strip("-.")
    if name == text and len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    # 9 bytes are for the hyphen and the digest. The cut may split a character; its first bytes are dropped.
    short = name.encode()[: _MAX_NAME_BYTES - 9].decode(errors="ignore")
    return f"{short}-{digest}" if short else digest
