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
    """Train with these arguments in a thread, stop it after its first checkpoint, and return what it raised.

    It is stopped by a ``Stopper``, or with ``by_run`` by ``Run.stop``. ``meanwhile`` is called before.
    """

    def train(
        *overrides: str, folder: Path, by_run: bool = False, meanwhile: Callable[[], object] = lambda: None,
        **arguments: Any,
    ) -> list[digitlab.Interrupted]:  # fmt: skip
        stopper, raised = digitlab.Stopper(), []

        def target() -> None:
            try:
                endless = ("trainer.max_epochs=10000", "early_stopping=null")
                given = None if by_run else stopper
                digitlab.train(*overrides, *endless, folder=folder, stopper=given, **arguments)
            except digitlab.Interrupted as stopped:
                raised.append(stopped)

        thread = threading.Thread(target=target)
        thread.start()
        while not (folder / "checkpoints" / "last.ckpt").exists() and thread.is_alive():
            time.sleep(0.05)
        try:
            meanwhile()
        finally:
            (digitlab.open(folder) if by_run else stopper).stop()
        thread.join()
        return raised

    return train
