"""Saves the states of users' callbacks in checkpoints and gives them back, as Lightning does. ``run_callback`` uses it.

digitlab writes its checkpoints without Lightning's ``Trainer.save_checkpoint``, so it also has to call these hooks.
"""

import io
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from digitlab.core.errors import RunError

_KEY = "callbacks"  # as in Lightning's checkpoints


def add_callbacks(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add the states of all callbacks to ``checkpoint``, and let each of them change it (``on_save_checkpoint``).

    Raises ``RunError`` if a state cannot be read back: reading a checkpoint never runs code from the file.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    states = {callback.state_key: state for callback in callbacks if (state := callback.state_dict())}
    for key, state in states.items():
        _require_plain(key, state)
    if states:
        checkpoint[_KEY] = states
    for callback in callbacks:
        callback.on_save_checkpoint(trainer, module, checkpoint)


def restore_callbacks(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Give each callback the state that it had when ``checkpoint`` was saved, if it had one."""
    states: dict[str, Any] = checkpoint.get(_KEY, {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.on_load_checkpoint(trainer, module, checkpoint)
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])


def _require_plain(key: str, state: dict[str, Any]) -> None:
    """Raise ``RunError`` unless ``torch.load`` can read ``state`` back with ``weights_only=True``."""
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and torch raise errors of many classes
        raise RunError(
            f"callbacks: the state of {key} can't be saved in a checkpoint; its state_dict() must hold only numbers, "
            "text, lists, dicts and tensors"
        ) from error
