"""Lightning callbacks that tests add to a run: ``+callbacks.NAME={_target_: run_callbacks.…}``."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


class SignalAt(Callback):
    """Sends signal ``number`` to this process in the middle of the training step ``step``, counted from 0."""

    def __init__(self, *, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def send(network: nn.Module, arguments: Any) -> None:
            if network.training and pl_module.position.total_steps == self.step:
                os.kill(os.getpid(), self.number)

        pl_module.network.register_forward_pre_hook(send)


class SaveAtEnd(Callback):
    """Makes Lightning save the run to ``path`` when its training ends."""

    def __init__(self, *, path: str) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class SlowValidation(Callback):
    """Makes every validation ``seconds`` longer."""

    def __init__(self, *, seconds: float) -> None:
        self.seconds = seconds

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        time.sleep(self.seconds)


class EpochRecord(Callback):
    """Keeps the validation loss of every epoch in its state, and writes all of them to ``path`` at the end."""

    def __init__(self, *, path: str, plain: bool = True) -> None:
        self.path, self.plain = Path(path), plain
        self.losses: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.losses = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses) if self.plain else self.path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = list(state_dict["losses"])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.write_text(json.dumps(self.losses))


class Digest(Callback):
    """Makes each process write a hash of its final weights to ``folder/RANK``."""

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        digest = hashlib.sha256()
        for tensor in pl_module.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        self.folder.mkdir(exist_ok=True)
        (self.folder / str(trainer.global_rank)).write_text(digest.hexdigest())
