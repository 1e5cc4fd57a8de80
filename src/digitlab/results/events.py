"""The TensorBoard event files of a run folder, cut back to where a checkpoint was taken.

What a killed run wrote after its last checkpoint is written again by the resumed one: without the cut it would be there
twice, for a reader that knows nothing of restarts and, where no checkpoint had been reached, for TensorBoard too.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

# Subfolders with event files of their own, whose curves TensorBoard draws on shared charts; "" is the run folder.
SUBFOLDERS = ("", "train", "val")


def _event_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for subfolder in SUBFOLDERS:
        for path in sorted((folder / subfolder).glob("events.out.tfevents.*")):
            yield path.relative_to(folder).as_posix(), path


def event_bytes(folder: Path) -> dict[str, int]:
    """The size of every event file under its path relative to the run folder."""
    return {name: path.stat().st_size for name, path in _event_files(folder)}


def cut_events(folder: Path, kept_bytes: Mapping[str, int]) -> None:
    """Bring the event files back to the sizes that ``event_bytes`` gave; those that came later are removed.

    They are not synchronised with the disk, which would take as long as the checkpoint itself: what a power cut has
    taken from them is told.
    """
    lost = dict(kept_bytes)
    for name, path in _event_files(folder):
        size = path.stat().st_size
        if name not in kept_bytes:
            path.unlink()
        elif size > kept_bytes[name]:
            os.truncate(path, kept_bytes[name])
        lost[name] = max(kept_bytes.get(name, 0) - size, 0)
    if any(lost.values()):
        log.warning("%s: the last %d bytes of events are gone: curves have a gap there", folder, sum(lost.values()))
