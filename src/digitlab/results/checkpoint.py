"""Writes and reads checkpoints: dicts of plain values and tensors. Reading one never runs code from the file.

The writer of run folders writes them. Resuming, evaluating and exporting a run read them.
"""

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

    If ``keep`` is given (a path in the same folder), the old file at ``path`` is kept under that name. Raises what
    ``write_atomically`` raises.
    """
    # torch.save writes a file in many steps, and a run can be killed between two of them. So it writes into memory, and
    # write_atomically replaces the old file in one step.
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
            # torch warns about some files and still reads them. Only its errors matter here.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such checkpoint") from error
    except Exception as error:
        # For damaged bytes, zipfile and torch raise almost any exception, even IndexError and AssertionError.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{path}: can't be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise RunError(f"{path}: is no checkpoint of a run: it holds no state_dict")
    return checkpoint


def _verify(content: io.BytesIO) -> None:
    """Raise an error if a checksum (CRC-32) in the archive is wrong. torch stores the checksums but never checks them.

    Without this check, a run could resume from weights in which the disk has changed a few bits.
    """
    with zipfile.ZipFile(content) as archive:
        # A small compressed file could unpack to more than the memory holds.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, as torch never writes it")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    # torch.load reads from the current position.
    content.seek(0)


def newest_usable_checkpoint(
    run: RunFolder, *, hyper_parameters: Mapping[str, Any], repair: bool = True
) -> dict[str, Any] | None:
    """Return the newest checkpoint that the run can resume from, or None if the run has no checkpoint yet.

    A checkpoint is unusable if it is damaged, or if its hyper-parameters differ from ``hyper_parameters``. If this is
    true for ``last.ckpt``, a warning names it, and ``previous.ckpt`` replaces it, unless ``repair`` is off. Raises
    ``RunError`` if there are checkpoints and all of them are unusable.
    """
    errors: list[RunError] = []
    for path in (run.last, run.previous):
        if not path.exists():
            continue
        try:
            checkpoint = read_checkpoint(path)
            _require_same_run(path, checkpoint, hyper_parameters)
        except RunError as error:
            errors.append(error)
            continue
        if path != run.last and repair:
            log.warning("%s; resuming from %s", errors[0] if errors else f"{run.last}: is missing", path.name)
            # The next save keeps last.ckpt as previous.ckpt. If last.ckpt stayed damaged, that would replace the only
            # usable file by a damaged one.
            write_atomically(run.last, path.read_bytes())
        return checkpoint
    # An unusable checkpoint may still be repaired or evaluated, so the run does not start again and overwrite it.
    if errors:
        raise RunError(f"{errors[0]}; to start the run again, move {run.last.parent} away")
    return None


def older_version_error(path: Path, how: str) -> RunError:
    """Return the error for a checkpoint of an older version; ``how`` says how it differs from those of this version."""
    return RunError(
        f"{path}: an older version wrote it, {how}: it can be evaluated, but not resumed; to start the run again, move "
        f"{path.parent} away"
    )


def _require_same_run(path: Path, checkpoint: dict[str, Any], hyper_parameters: Mapping[str, Any]) -> None:
    """Raise ``RunError`` if ``checkpoint`` has an older format, or other values of ``hyper_parameters``."""
    # This entry was the last one to be added to the format, so a checkpoint that has it also has all others.
    if "events" not in checkpoint:
        raise older_version_error(path, "without the sizes of the event files")
    saved = checkpoint.get("hyper_parameters")
    for name, value in hyper_parameters.items():
        saved_value = saved.get(name) if isinstance(saved, dict) else None
        if saved_value != value:
            raise RunError(f"{path}: belongs to another run: its {name} is {show(saved_value)}, not {show(value)}")
