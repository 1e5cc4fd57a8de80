"""A callback that ends the process where its first training step begins, for ``commands.py`` to time the start-up."""

import os
from typing import Any

from lightning.pytorch import Callback


class FirstStep(Callback):
    def on_train_batch_start(self, *arguments: Any) -> None:
        os._exit(0)
