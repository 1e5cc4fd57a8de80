"""Checkpoints: dicts of plain values and tensors, written atomically and read without running what is in them."""

import io
import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from digitlab.core.errors import RunError, show
from digitlab.core.files import write_atomically
from digitlab.results.folder import RunFolder

log = logging.getLogger(__name__)


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint; there is a whole one at ``path`` at every moment after the first.

    ``keep`` is where the one before goes on to be. Raises what ``write_atomically`` raises.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomically(path, buffer.getvalue(), keep=keep)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises ``RunError`` where it is missing, damaged, or holds anything but plain values and tensors.
    """
    try:
        content = io.BytesIO(path.read_bytes())
        _verify(content)
        with warnings.catch_warnings():
            # On a pickle of another protocol torch warns, and then refuses it or not.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such checkpoint") from error
    except Exception as error:
        # Damaged bytes make zipfile and torch raise nearly anything, IndexError and AssertionError included.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{path}: can't be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise RunError(f"{path}: is no checkpoint of a run: it holds no state_dict")
    return checkpoint


def _verify(content: io.BytesIO) -> None:
    """Raise where a bit of the archive's entries is not as written: torch stores their CRC-32 but does not check it."""
    with zipfile.ZipFile(content) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, as torch never writes it")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    content.seek(0)


def newest_good(run: RunFolder, *, like: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest checkpoint from which a run can go on, or None where it has none yet.

    One that is damaged, or whose hyper-parameters are not those of ``like``, is named in a warning and the one before
    is taken, which becomes ``last``. Raises ``RunError`` where there are checkpoints and none of them is good.
    """
    refused: list[RunError] = []
    for path in (run.last, run.previous):
        if not path.exists():
            continue
        try:
            checkpoint = read_checkpoint(path)
            _require_like(path, checkpoint, like)
        except RunError as error:
            refused.append(error)
            continue
        if path != run.last:
            log.warning("%s; going on from %s", refused[0] if refused else f"{run.last}: is missing", path.name)
            write_atomically(run.last, path.read_bytes())
        return checkpoint
    if refused:
        raise refused[0]
    return None


def of_older_version(path: Path, how: str) -> RunError:
    """What to raise for a checkpoint that can't be gone on from, and ``how`` it differs from those of today."""
    return RunError(
        f"{path}: an older version wrote it, {how}: it can be evaluated, not gone on from; with {path.parent} moved "
        f"away, the run begins anew"
    )


def _require_like(path: Path, checkpoint: dict[str, Any], like: Mapping[str, Any]) -> None:
    if "events" not in checkpoint:
        # How far the files of events reached, to be cut there: the last thing that checkpoints came to hold.
        raise of_older_version(path, "without the sizes of the event files")
    found = checkpoint.get("hyper_parameters")
    for name, value in like.items():
        other = found.get(name) if isinstance(found, dict) else None
        if other != value:
            raise RunError(f"{path}: is of another run: {name} is {show(other)} there, {show(value)} here")
