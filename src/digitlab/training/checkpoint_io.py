"""How Lightning saves and loads where it does so itself, as for ``trainer.save_checkpoint`` in a callback of a user's.

The run's own checkpoints are written by its ``RunWriter``, by the same functions.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO

from digitlab.results.checkpoint import read_checkpoint, write_checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the place, synchronises and renames; loads plain values and tensors only, verified.

    Lightning's own stages in the folder for temporary files, which may be another file system, and synchronises
    nothing.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises ``RunError`` where it can't be written, ``TypeError`` for ``storage_options``: there are none."""
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options!r}: a checkpoint is a local file, without options")
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint on the CPU, from where Lightning moves it; never more than plain values, whatever is asked.

        Raises what ``read_checkpoint`` raises.
        """
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
