"""A callback that sends SIGTERM to its process at a given mini-batch; ``compare_revisions.py`` stops runs with it."""

import os
import signal
from typing import Any

from lightning.pytorch import Callback


class StopMidway(Callback):
    """Stops at the start of chunk number ``STOP_AT``, an environment variable that is not set for resumed runs."""

    def __init__(self) -> None:
        self._chunks = 0

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._chunks += 1
        if str(self._chunks) == os.environ.get("STOP_AT"):
            os.kill(os.getpid(), signal.SIGTERM)
