"""Finds the run folders and sweeps under a folder for ``watch.laboratory``.

While a page is open, the search is repeated about every second. So it lists a folder again only when the folder has
changed.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from digitlab.sweeps.manifest import manifest_file

# Two changes can have the same time if the clock of the file system is coarse. So a folder that was changed less than
# this many seconds ago is read again, even if its time of change is the same.
SETTLED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a folder contained when its time of change was ``changed_ns`` (ns since 1970).

    ``settled`` says whether any later change must have another time. ``subfolders`` are paths of visible folders.
    """

    changed_ns: int
    settled: bool
    subfolders: tuple[str, ...]
    is_run: bool
    is_sweep: bool


def is_settled(changed_ns: int) -> bool:
    """Whether any change from now on gives the folder another time of change than ``changed_ns`` (ns since 1970)."""
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
        folders_to_visit = [self.root]
        while folders_to_visit:
            path = folders_to_visit.pop()
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
                # A folder that is a run stays one, so it need not be listed again.
                if subfolder in self.runs:
                    runs.add(subfolder)
                else:
                    folders_to_visit.append(subfolder)
        self.runs, self.sweeps, self._listings = runs, sorted(sweeps), listings

    def _listing(self, path: str) -> _Listing | None:
        """Return what a folder contains, or None if it cannot be read."""
        try:
            changed_ns = os.stat(path).st_mtime_ns
            earlier = self._listings.get(path)
            if earlier is not None and earlier.settled and earlier.changed_ns == changed_ns:
                return earlier
            # This is decided before the folder is listed: a change in between then makes the next update list it again.
            settled = is_settled(changed_ns)
            with os.scandir(path) as entries:
                items = [(entry.name, entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError:
            return None
        names = {name for name, _, _ in items}
        return _Listing(
            changed_ns, settled,
            subfolders=tuple(item for name, item, is_folder in items if is_folder and not name.startswith(".")),
            is_run=".hydra" in names, is_sweep=manifest_file(Path(path)).name in names,
        )  # fmt: skip
