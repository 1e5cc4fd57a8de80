"""A callback that ends the process at the start of its first training step; ``commands.py`` times start-up with it."""

import os
from typing import Any

from lightning.pytorch import Callback


class FirstStep(Callback):
    def on_train_batch_start(self, *arguments: Any) -> None:
        os._exit(0)
