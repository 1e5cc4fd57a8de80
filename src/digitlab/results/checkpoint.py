"""Checkpoints: dicts of plain values and tensors, written atomically and read without running what is in them."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from digitlab.results.folder import write_atomically
from digitlab.schema import RunError


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint; there is a whole one at ``path`` at every moment after the first."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises ``RunError`` where it is missing, damaged, or holds anything but plain values and tensors.
    """
    try:
        with warnings.catch_warnings():
            # On a pickle of another protocol torch warns, and then refuses it or not.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such checkpoint") from error
    except Exception as error:
        # Damaged bytes make torch raise nearly anything, IndexError and AssertionError included.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{path}: can't be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise RunError(f"{path}: is no checkpoint of a run: it holds no state_dict")
    return checkpoint
