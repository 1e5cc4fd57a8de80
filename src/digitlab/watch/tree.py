"""Finds run folders and sweeps under a folder, again and again. A folder is listed anew only when it has changed."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from digitlab.sweeps.manifest import manifest_file

# A change within the resolution of the clock of the file system could stay unseen. So a folder that was changed this
# recently is looked at again.
SETTLED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a folder contained when its time of change was ``changed_ns``; ``settled`` says whether that is certain."""

    changed_ns: int
    settled: bool
    subfolders: tuple[str, ...]
    is_run: bool
    is_sweep: bool


def is_settled(changed_ns: int) -> bool:
    """Whether a folder that was last changed at ``changed_ns`` (ns since 1970) can have no unseen change."""
    return time.time_ns() - changed_ns > SETTLED_SECONDS * 1e9


class RunTree:
    """The run folders and sweeps under ``root``, as ``results.folder.find_runs`` finds them.

    Hidden folders are left out, and links are not followed. ``runs`` and ``sweeps`` are the paths of the folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.runs: set[str] = set()
        self.sweeps: list[str] = []
        self._listings: dict[str, _Listing] = {}

    def update(self) -> None:
        """Look for new and removed folders. Costs one system call for each folder that contains runs."""
        runs: set[str] = set()
        sweeps: list[str] = []
        listings: dict[str, _Listing] = {}
        waiting = [self.root]
        while waiting:
            path = waiting.pop()
            listing = self._listing(path)
            if listing is None:
                continue
            if listing.is_run:
                runs.add(path)
                continue
            listings[path] = listing
            if listing.is_sweep:
                sweeps.append(path)
            for subfolder in listing.subfolders:
                # A run stays a run until the folder around it no longer lists it.
                if subfolder in self.runs:
                    runs.add(subfolder)
                else:
                    waiting.append(subfolder)
        self.runs, self.sweeps, self._listings = runs, sorted(sweeps), listings

    def _listing(self, path: str) -> _Listing | None:
        """The listing of a folder, None if it cannot be read."""
        try:
            changed_ns = os.stat(path).st_mtime_ns
            known = self._listings.get(path)
            if known is not None and known.settled and known.changed_ns == changed_ns:
                return known
            settled = is_settled(changed_ns)
            with os.scandir(path) as entries:
                found = [(entry.name, entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError:
            return None
        names = {name for name, _, _ in found}
        return _Listing(
            changed_ns, settled,
            subfolders=tuple(each for name, each, is_folder in found if is_folder and not name.startswith(".")),
            is_run=".hydra" in names, is_sweep=manifest_file(Path(path)).name in names,
        )  # fmt: skip
