"""The manifest of a sweep, ``sweep.json``: which run has which number and folder, and what was typed for it.

How a run stands is said by its own folder alone. A run is known by its configuration, so that the same command, or
another one with some of the same runs in it, finds those that are there. Nothing here imports torch.
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

_FORMAT = 1
# File systems end a name at 255 bytes, and a listing is to be read.
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of the sweep: its number, its folder's name, the digest of its configuration, and its overrides."""

    number: int
    folder: str
    fingerprint: str
    overrides: list[str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The sweep in ``path``; its runs in the order of their numbers, which never change.

    ``keys`` are those that its last command swept over: new folders are named by their values. ``halving`` is whether
    it ended the worse runs early.
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
        """The manifest of the sweep in ``path``.

        Raises ``ConfigError`` where it has none, ``RunError`` where it is damaged.
        """
        file = manifest_file(path)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise RunError(f"{file}: is of format {content['format']}; this version reads {_FORMAT}")
            return cls(
                path,
                [Entry(**entry) for entry in content["runs"]],
                list(content["keys"]),
                content.get("halving", False),
            )
        except (FileNotFoundError, NotADirectoryError):
            reason = f"is no sweep: it has no {file.name}" if path.is_dir() else "there is no such folder"
            raise ConfigError("SWEEP_FOLDER", path, reason) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = f"is damaged ({type(error).__name__}): with it moved away, the runs there keep their folders"
            raise RunError(f"{file}: {reason}, and the sweep begins anew beside them") from error

    def write(self) -> None:
        content = {
            "format": _FORMAT,
            "keys": self.keys,
            "halving": self.halving,
            "runs": [asdict(entry) for entry in self.runs],
        }
        write_atomically(manifest_file(self.path), json.dumps(content, indent=1).encode() + b"\n")

    def with_run(self, fingerprint: str, overrides: Sequence[str]) -> "Manifest":
        """The manifest with one more run, whose number no folder has had before."""
        numbers = [entry.number for entry in self.runs] + list(_numbers_in(self.path))
        number = max(numbers, default=-1) + 1
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
    """The right to change the manifest in ``path``: jobs of one sweep may run in several processes."""
    from filelock import FileLock

    with FileLock(path / ".manifest.lock"):
        yield


def create(path: Path, keys: Sequence[str], *, halving: bool = False) -> None:
    """Have a manifest in ``path`` for a command that sweeps over ``keys``. Raises ``RunError`` for a damaged one."""
    with locked(path):
        runs = Manifest.read(path).runs if manifest_file(path).exists() else []
        Manifest(path, runs, list(keys), halving).write()


def planned_folder(path: Path, config: DictConfig, overrides: Sequence[str]) -> str:
    """The name of the run folder of ``config`` in ``path``: the one it has, or the one it would get next.

    Writes nothing. Raises ``RunError`` for a damaged manifest.
    """
    manifest = Manifest.read(path) if manifest_file(path).exists() else Manifest(path, [], [])
    return _with_job(manifest, fingerprint(config), overrides)[1].folder


def add_jobs(path: Path, jobs: Iterable[tuple[DictConfig, Sequence[str]]]) -> list[str]:
    """Add jobs, each a configuration and its overrides, to the manifest in ``path``.

    Launchers call it before they run the jobs. Returns the names of their folders; a run that is in the manifest keeps
    its own. Raises what ``Manifest.read`` raises.
    """
    digests = [(fingerprint(config), overrides) for config, overrides in jobs]
    folders = []
    with locked(path):
        before = manifest = Manifest.read(path)
        for digest, overrides in digests:
            manifest, entry = _with_job(manifest, digest, overrides)
            folders.append(entry.folder)
        if manifest != before:
            manifest.write()
    return folders


def add_missing(folder: Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Add the run in ``folder`` to the manifest beside it, if it isn't there; the folder's name begins with its number.

    A launcher of another package doesn't call ``add_jobs``. Raises what ``Manifest.read`` raises.
    """
    with locked(folder.parent):
        manifest = Manifest.read(folder.parent)
        if manifest.entry(folder.name) is None:
            number = int(folder.name.partition("_")[0])
            entry = Entry(number, folder.name, fingerprint(config), list(overrides))
            replace(manifest, runs=[*manifest.runs, entry]).write()


def _with_job(manifest: Manifest, digest: str, overrides: Sequence[str]) -> tuple[Manifest, Entry]:
    """The manifest with the run of fingerprint ``digest`` in it, and its entry, as ``overrides`` now call it."""
    known = next((entry for entry in manifest.runs if entry.fingerprint == digest), None)
    if known is None:
        manifest = manifest.with_run(digest, overrides)
        return manifest, manifest.runs[-1]
    # The same run in other words: those of the last command are the ones to go by.
    entry = replace(known, overrides=list(overrides))
    return replace(manifest, runs=[entry if run is known else run for run in manifest.runs]), entry


def names_runs(sweep: object) -> bool:
    """Whether the manifest names the folders of a sweep's runs; ``sweep`` is the node ``hydra.sweep``.

    It doesn't where ``hydra.sweep.subdir`` was typed: then nothing says that a folder stands for one configuration.
    """
    settings = OmegaConf.to_container(sweep, resolve=False)
    assert isinstance(settings, dict)
    return str(settings["subdir"]).startswith("${run_folder:")


def run_overrides(overrides: Sequence[str]) -> list[str]:
    """Of the overrides of a job those that are about the run, not about the sweep it is in."""
    return [override for override in overrides if not override.lstrip("+").startswith("sweep.")]


def folder_name(text: str) -> str:
    """``text`` as a name that every file system takes; a digest keeps two apart that would look the same."""
    name = re.sub(r"[^\w.,=+-]+", "-", text).strip("-.")
    if name == text and len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    short = name.encode()[: _LONGEST_NAME - 9].decode(errors="ignore")
    return f"{short}-{digest}" if short else digest
