"""Cuts a run's TensorBoard event files back to their sizes at a checkpoint, when the run resumes from it.

A resumed run writes again everything that came after its checkpoint. Without the cut those events would be there twice.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

# Folders with event files, relative to the run folder. Each is an entry in TensorBoard, which draws the same tag of
# several entries on one chart: the curves of training in the run folder, those of validation in val/.
SUBFOLDERS = ("", "val")


def curves_folder(folder: Path, split: str) -> Path:
    """Return the folder with the events of the curves of ``split``: ``train`` or ``val``."""
    return folder / "val" if split == "val" else folder


def _event_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for subfolder in SUBFOLDERS:
        for path in sorted((folder / subfolder).glob("events.out.tfevents.*")):
            yield path.relative_to(folder).as_posix(), path


def event_bytes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of every event file, keyed by its path relative to the run folder."""
    return {name: path.stat().st_size for name, path in _event_files(folder)}


def cut_events(folder: Path, kept_bytes: Mapping[str, int]) -> None:
    """Cut the event files back to ``kept_bytes``, as ``event_bytes`` returned it, and remove files that came later.

    Event files are not synchronised to the disk, because that takes as long as writing the checkpoint. A power cut can
    therefore make a file shorter than its size at the checkpoint: a warning then reports the missing bytes.
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
        log.warning("%s: the last %d bytes of events are lost: the curves have a gap there", folder, sum(lost.values()))
