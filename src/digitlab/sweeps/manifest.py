"""The manifest of a sweep, ``sweep.json``: the number, folder and overrides of each run.

Launchers add runs to it, and everything that shows or resumes a sweep reads it. It does not store how far a run got;
only the run's own folder says that. A run is identified by the fingerprint of its configuration, a digest of its
values. So the same command, or another command that contains some of the same runs, finds the runs that exist and
resumes them. Nothing here imports torch.
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
from digitlab.config.overrides import split_override
from digitlab.core.errors import ConfigError, RunError
from digitlab.core.files import write_atomically
from digitlab.results.folder import RunFolder

# The version of the file's format. It is increased when older versions of digitlab would misread the content.
_FORMAT = 1
# File systems allow names of 255 bytes. Shorter names keep lists of folders readable.
_MAX_NAME_BYTES = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a sweep: number, name of the folder, fingerprint of the configuration, and overrides."""

    number: int
    folder: str
    fingerprint: str
    overrides: list[str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The runs of the sweep in ``path``, ordered by number. The number of a run never changes.

    ``keys`` are the keys that the last command swept; their values form the names of new folders. ``halving`` says
    whether the last command ends the worse runs early (``sweep.halving``).
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
            # Check the format first, because the entries of another format can have other fields.
            if content["format"] != _FORMAT:
                raise RunError(
                    f"{file}: has format {content['format']}, but this version reads format {_FORMAT}: use the version "
                    f"that wrote it, or another sweep.name"
                )
            return cls(
                path,
                [Entry(**entry) for entry in content["runs"]],
                list(content["keys"]),
                # Manifests of older versions, which had no halving, lack this key.
                content.get("halving", False),
            )
        # A wrong path is a mistake on the command line. A damaged file is not, so it has another class of error below.
        except (FileNotFoundError, NotADirectoryError):
            reason = f"is no sweep: it has no {file.name}" if path.is_dir() else "there is no such folder"
            # The user may have given a folder of sweeps, or the folder ``outputs`` above it.
            manifests = [*path.glob(f"*/{file.name}"), *path.glob(f"sweeps/*/{file.name}")]
            if manifests:
                newest = sorted(manifests, key=lambda each: each.stat().st_mtime)[-1]
                reason += f"; the newest sweep in it is {newest.parent.relative_to(path)}"
            elif (path / ".hydra").is_dir():
                reason += "; this is the folder of a run"
            elif path.is_dir() and next(path.glob("*/.hydra"), None) is not None:
                reason += f"; it contains runs: digitlab runs {path}"
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
        """Return the manifest with one more run, which gets the next number and a folder name."""
        # The numbers of existing folders count too: if the manifest was lost, a new run must not use an old folder.
        numbers = [entry.number for entry in self.runs] + list(_folder_numbers(self.path))
        number = max(numbers, default=-1) + 1
        # The name of the folder has only the swept values, because the others are the same for all runs.
        swept = [override for override in overrides if override.partition("=")[0] in self.keys]
        name = f"{number}_{folder_name(','.join(swept))}" if swept else str(number)
        entry = Entry(number, name, fingerprint, list(overrides))
        return replace(self, runs=[*self.runs, entry])


def manifest_file(path: Path) -> Path:
    return path / "sweep.json"


def _folder_numbers(path: Path) -> Iterator[int]:
    """Yield the numbers at the beginning of the names of the folders in ``path``."""
    for folder in path.iterdir() if path.is_dir() else ():
        number = folder.name.partition("_")[0]
        if number.isdecimal():
            yield int(number)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the manifest in ``path``, because several processes may change it."""
    from digitlab.core.locks import locked_file

    with locked_file(path / ".manifest.lock"):
        yield


def create(path: Path, keys: Sequence[str], *, halving: bool = False) -> None:
    """Write the manifest of a command that sweeps ``keys``; keep the entries of earlier commands.

    Raises ``RunError`` if the existing manifest is damaged.
    """
    with locked(path):
        # The runs of earlier commands must be found again, and their numbers must not be used twice.
        runs = Manifest.read(path).runs if manifest_file(path).exists() else []
        Manifest(path, runs, list(keys), halving).write()


def planned_folder(path: Path, config: DictConfig, overrides: Sequence[str]) -> str:
    """Return the folder name of the run with ``config`` in the sweep ``path``, or the name that it would get.

    It writes nothing. Raises ``RunError`` if the manifest is damaged.
    """
    # Hydra asks for folder names even if a command only shows the configuration, so there may be no manifest.
    manifest = Manifest.read(path) if manifest_file(path).exists() else Manifest(path, [], [])
    return _with_entry(manifest, fingerprint(config), overrides)[1].folder


def add_jobs(path: Path, jobs: Iterable[tuple[DictConfig, Sequence[str]]]) -> list[str]:
    """Add jobs, given as configurations with their overrides, to the manifest in ``path``; return their folder names.

    Launchers call it before they run the jobs. A run that is in the manifest already keeps its folder. Raises what
    ``Manifest.read`` raises.
    """
    # Fingerprints take the longest, so they are computed before the manifest is locked.
    fingerprints = [(fingerprint(config), overrides) for config, overrides in jobs]
    folders = []
    with locked(path):
        stored = manifest = Manifest.read(path)
        for digest, overrides in fingerprints:
            manifest, entry = _with_entry(manifest, digest, overrides)
            folders.append(entry.folder)
        # A sweep that resumes usually adds nothing, so the file need not be written.
        if manifest != stored:
            manifest.write()
    return folders


def add_missing(folder: Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Add the run in ``folder`` to the manifest next to it, unless it is there; the folder name starts with its number.

    Launchers of other packages need this, because they don't call ``add_jobs``. Raises what ``Manifest.read`` raises.
    """
    with locked(folder.parent):
        manifest = Manifest.read(folder.parent)
        if manifest.entry(folder.name) is None:
            number = int(folder.name.partition("_")[0])
            entry = Entry(number, folder.name, fingerprint(config), list(overrides))
            replace(manifest, runs=[*manifest.runs, entry]).write()


def _with_entry(manifest: Manifest, digest: str, overrides: Sequence[str]) -> tuple[Manifest, Entry]:
    """Return the manifest with the run of fingerprint ``digest``, and its entry.

    If the manifest has the run already, the new ``overrides`` replace those of its entry.
    """
    # A run is identified by its configuration, whatever text was typed and wherever the job is in the grid.
    existing = next((entry for entry in manifest.runs if entry.fingerprint == digest), None)
    if existing is None:
        manifest = manifest.with_run(digest, overrides)
        return manifest, manifest.runs[-1]
    # The user may type the same run differently, such as 1e-1 for 0.1. The latest text matches the latest command.
    entry = replace(existing, overrides=list(overrides))
    return replace(manifest, runs=[entry if run is existing else run for run in manifest.runs]), entry


def names_runs(sweep: object) -> bool:
    """Return whether the manifest names the run folders of a sweep; ``sweep`` is the node ``hydra.sweep``.

    It does not if the user typed ``hydra.sweep.subdir``. Then a folder may hold a run with another configuration, so
    no run may be resumed from it.
    """
    settings = OmegaConf.to_container(sweep, resolve=False)
    assert isinstance(settings, dict)
    return str(settings["subdir"]).startswith("${run_folder:")


def run_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a job without those that describe its sweep (``sweep.*``)."""
    return [override for override in overrides if not split_override(override)[0].startswith("sweep.")]


def folder_name(text: str) -> str:
    """Return ``text`` as a valid file name of at most 100 bytes.

    If the name differs from the text, it ends with a digest, so that different texts have different names.
    """
    # Leading dots would hide the folder, and a leading hyphen would look like an option to shell commands.
    name = re.sub(r"[^\w.,=+-]+", "-", text).strip("-.")
    if name == text and len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    # The hyphen and the digest take 9 bytes. If the cut splits a character, its first bytes are dropped.
    short = name.encode()[: _MAX_NAME_BYTES - 9].decode(errors="ignore")
    return f"{short}-{digest}" if short else digest
