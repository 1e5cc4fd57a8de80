"""Lets Lightning save and load checkpoints as digitlab does, for example for ``trainer.save_checkpoint`` in a callback.

digitlab saves the checkpoints of a run with its ``RunWriter``, not with this plugin. Both use the same functions.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO

from digitlab.results.checkpoint import read_checkpoint, write_checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically. Checks the checksums of a checkpoint, and loads only plain values and tensors.

    Lightning's own plugin does not write atomically: it uses the folder for temporary files, which may be on another
    file system, and does not synchronise files to the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint``. Raises ``RunError`` if that fails, ``TypeError`` if ``storage_options`` are given."""
        # The options are for remote storage. If they were ignored, the file would not be where the caller expects it.
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options!r}: a checkpoint is a local file, without options")
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint with its tensors on the CPU; Lightning moves them to the device.

        ``map_location`` and ``weights_only`` have no effect. Raises ``RunError`` if the file is missing, damaged, or
        contains anything but plain values and tensors.
        """
        # Even if a caller sets weights_only=False: code in a file from another person must not run.
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
