"""Trainings that run in a thread until they are stopped."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import digitlab


@pytest.fixture
def stopped_in_thread() -> Callable[..., list[digitlab.Interrupted]]:
    """Train with these arguments in a thread, stop it after its first checkpoint, and return what it raised."""

    def train(*overrides: str, folder: Path, **arguments: Any) -> list[digitlab.Interrupted]:
        stopper, raised = digitlab.Stopper(), []

        def target() -> None:
            try:
                endless = ("trainer.max_epochs=10000", "early_stopping=null")
                digitlab.train(*overrides, *endless, folder=folder, stopper=stopper, **arguments)
            except digitlab.Interrupted as stopped:
                raised.append(stopped)

        thread = threading.Thread(target=target)
        thread.start()
        while not (folder / "checkpoints" / "last.ckpt").exists() and thread.is_alive():
            time.sleep(0.05)
        stopper.stop()
        thread.join()
        return raised

    return train
