"""Finds the TensorBoard event files of a run, and truncates them to their sizes at the checkpoint when a run resumes.

A resumed run repeats all steps after its checkpoint and writes their events again. If the files were not truncated,
these events would be there twice. ``results.writer`` stores the sizes in each checkpoint and truncates the files.
Figures and live pages find the curves of a run with the other functions.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

# Folders with event files, relative to the run folder: training curves are in the run folder itself, validation curves
# in val/. TensorBoard lists each folder as a run, and draws the curves of all runs with the same tag in one chart.
SUBFOLDERS = ("", "val")

# The names of event files. In place of the * are the second, the machine, the process and a counter.
EVENT_FILES = "events.out.tfevents.*"

# The tag of the training loss of single mini-batches.
LOSS_TAG = "loss_step"


def curves_folder(folder: Path, split: str) -> Path:
    """Return the folder with the event files for the curves of ``split``, which is ``train`` or ``val``."""
    return folder / "val" if split == "val" else folder


def event_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every event file: its path relative to the run folder, as text, and its path; the oldest first."""
    for subfolder in SUBFOLDERS:
        for path in sorted((folder / subfolder).glob(EVENT_FILES), key=lambda path: _numbers(path.name)):
            yield path.relative_to(folder).as_posix(), path


def _numbers(name: str) -> list[int | str]:
    """Return a sort key for the names of event files, in which numbers are compared as numbers.

    The last number is a counter. As text, 9 would come after 10.
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def event_bytes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of every event file, keyed by its path relative to the run folder."""
    return {name: path.stat().st_size for name, path in event_files(folder)}


def cut_events(folder: Path, kept_bytes: Mapping[str, int]) -> None:
    """Truncate the event files to ``kept_bytes``, which ``event_bytes`` returned, and remove files that are not in it.

    A run that starts from the beginning keeps none. Event files are not synchronised to the disk, because that takes as
    long as writing the checkpoint. After a power cut a file can therefore be shorter than at the checkpoint. A warning
    then reports how many bytes are missing.
    """
    # At first every file counts as completely lost, so that a file that does not exist any more is reported too.
    lost_bytes = dict(kept_bytes)
    for name, path in event_files(folder):
        size = path.stat().st_size
        if name not in kept_bytes:
            path.unlink()
        elif size > kept_bytes[name]:
            os.truncate(path, kept_bytes[name])
        lost_bytes[name] = max(kept_bytes.get(name, 0) - size, 0)
    if lost := sum(lost_bytes.values()):
        log.warning("%s: the last %d bytes of events are lost: the curves have a gap there", folder, lost)
