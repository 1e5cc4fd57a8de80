"""Names the two checkpoints of a run. The command line imports this module, so it imports nothing that takes time."""

from typing import Any, Literal

CheckpointName = Literal["best", "last"]


def tested_checkpoint(test: Any) -> CheckpointName:
    """Return the checkpoint to which the metrics of a run belong, by the value of its key ``test``; none means best."""
    return "last" if test == "last" else "best"
