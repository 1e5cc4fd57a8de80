"""A callback that sends SIGTERM to its process at a given mini-batch; ``compare_revisions.py`` stops runs with it."""

import os
import signal
from typing import Any

from lightning.pytorch import Callback


class StopMidway(Callback):
    """Stops at the start of the chunk with the number in the environment variable ``STOP_AT``, which resumed runs lack.

    Lightning passes a chunk of mini-batches as one batch. The cases that use this callback set its length to 1.
    """

    def __init__(self) -> None:
        self._chunks = 0

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._chunks += 1
        if str(self._chunks) == os.environ.get("STOP_AT"):
            os.kill(os.getpid(), signal.SIGTERM)
