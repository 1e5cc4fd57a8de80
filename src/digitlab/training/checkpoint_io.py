"""Saves and loads checkpoints for Lightning, for example when a user's callback calls ``trainer.save_checkpoint``.

The ``RunWriter`` writes the run's own checkpoints with the same functions.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO

from digitlab.results.checkpoint import read_checkpoint, write_checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, and loads only plain values and tensors, after checking their checksums.

    Lightning's own plugin first writes to the folder for temporary files, which may be on another file system, and it
    does not synchronise files to the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint``. Raises ``RunError`` if that fails, ``TypeError`` if ``storage_options`` are given."""
        # Ignoring the options would save to another place than the caller thinks.
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options!r}: a checkpoint is a local file, without options")
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint with its tensors on the CPU; Lightning moves them to the device.

        ``map_location`` and ``weights_only`` are ignored: only plain values and tensors are ever read. Raises what
        ``read_checkpoint`` raises.
        """
        # Whatever a caller of Lightning asks for: a file from elsewhere must not be able to run code.
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
