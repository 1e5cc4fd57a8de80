"""Writes and reads checkpoints: dicts of plain values and tensors. Reading one never runs code from the file."""

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
    """Write ``checkpoint`` to ``path`` atomically: after the first call, ``path`` is a complete file at every moment.

    ``keep`` is where the previous file at ``path`` is moved to. Raises what ``write_atomically`` raises.
    """
    # In memory first: the bytes can then be written and synchronised in one atomic step.
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomically(path, buffer.getvalue(), keep=keep)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checkpoint at ``path``, its tensors on the CPU.

    Raises ``RunError`` if the file is missing, damaged, or contains anything but plain values and tensors.
    """
    try:
        content = io.BytesIO(path.read_bytes())
        _verify(content)
        with warnings.catch_warnings():
            # torch warns about a pickle of another protocol. Whether it then refuses it is all that matters here.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such checkpoint") from error
    except Exception as error:
        # Damaged bytes make zipfile and torch raise almost any exception, even IndexError and AssertionError.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{path}: can't be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise RunError(f"{path}: is no checkpoint of a run: it holds no state_dict")
    return checkpoint


def _verify(content: io.BytesIO) -> None:
    """Raise an error if the CRC-32 of an archive entry is wrong: torch stores the sums but never checks them."""
    with zipfile.ZipFile(content) as archive:
        # A small file could unpack to more than the memory holds.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, as torch never writes it")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    content.seek(0)


def newest_good(run: RunFolder, *, like: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the newest checkpoint that the run can resume from, or None if the run has no checkpoint yet.

    If ``last.ckpt`` is damaged, or its hyper-parameters differ from ``like``, a warning names it, and
    ``previous.ckpt`` replaces it. Raises ``RunError`` if there are checkpoints and all of them are unusable.
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
            log.warning("%s; resuming from %s", refused[0] if refused else f"{run.last}: is missing", path.name)
            # The next save moves last.ckpt to previous.ckpt and must not replace the only good file by a damaged one.
            write_atomically(run.last, path.read_bytes())
        return checkpoint
    if refused:
        raise refused[0]
    return None


def of_older_version(path: Path, how: str) -> RunError:
    """Return the error for a checkpoint that a run can't resume from; ``how`` says how it differs from new ones."""
    return RunError(
        f"{path}: an older version wrote it, {how}: it can be evaluated, but not resumed; to start the run again, move "
        f"{path.parent} away"
    )


def _require_like(path: Path, checkpoint: dict[str, Any], like: Mapping[str, Any]) -> None:
    if "events" not in checkpoint:
        # The sizes of the event files, which are cut there on resume, are the newest entry of the format.
        raise of_older_version(path, "without the sizes of the event files")
    found = checkpoint.get("hyper_parameters")
    for name, value in like.items():
        other = found.get(name) if isinstance(found, dict) else None
        if other != value:
            raise RunError(f"{path}: belongs to another run: its {name} is {show(other)}, not {show(value)}")
