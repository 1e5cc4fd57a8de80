"""Ends the process at the start of its first training step. ``commands.py`` measures with it how long a start takes."""

import os
from typing import Any

from lightning.pytorch import Callback


class FirstStep(Callback):
    def on_train_batch_start(self, *arguments: Any) -> None:
        os._exit(0)
