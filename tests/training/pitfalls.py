"""Users' classes for tests of divergence: a network that fails at a chosen step, a callback, an optimizer."""

from typing import ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from digitlab.config.schema import settings
from digitlab.optim.optimizers import SGD


class Cliff(nn.Module):
    """A linear network whose loss is finite at ``at_step``, counted from 1, and whose gradient is not.

    With ``height`` the gradient is not nan but this large, which float32 just holds and its square does not.
    """

    def __init__(
        self, *, image_shape: tuple[int, int, int], classes: int, at_step: int, height: float | None = None
    ) -> None:
        super().__init__()
        self.at_step, self.height = at_step, height
        self.output = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(images.flatten(1))
        if self.training:
            self.steps += 1
            if self.steps == self.at_step:
                nothing = self.output.bias - self.output.bias.detach()
                # The slope of the root is infinite at 0.
                logits = logits + (nothing.sqrt() if self.height is None else nothing * self.height)
        return logits


@settings
class OwnSGD(SGD):
    """An optimizer of a user: digitlab can't know that its updates are those of SGD."""


class Survivor(Callback):
    """Keeps the weights that are in memory when a run fails."""

    weights: ClassVar[dict[str, Tensor]] = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        Survivor.weights.update({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})
