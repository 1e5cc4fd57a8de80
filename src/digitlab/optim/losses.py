"""Losses: from logits and targets to the mean over a mini-batch, and from logits to confidences of the classes.

``conf/loss/`` names them; ``training`` and ``engine`` call them. N images, K classes.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from digitlab.config.schema import Rate, settings


class Loss(ABC):
    """The base class of losses."""

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        """Convert targets to the form that the loss takes.

        ``targets`` are labels, int64 (N,), or class weights, float (N, K), if images were mixed. This is separate from
        the call so that it can be done for many mini-batches at once.
        """
        return targets

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, K) over the mini-batch: a float scalar tensor. ``targets`` are encoded."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Convert logits (N, K) to confidences in [0, 1], (N, K), that are in the same order."""


@settings
class CrossEntropy(Loss):
    """Cross-entropy of the softmax, in nats; ``label_smoothing`` after Szegedy et al. (2016)."""

    label_smoothing: Rate = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


@settings
class MeanSquaredError(Loss):
    """The mean of (output - one-hot target)² over outputs and mini-batch.

    ``output`` says what an output is: the softmax or the sigmoid of the logits, or the logits themselves (``raw``).
    """

    output: Literal["softmax", "sigmoid", "raw"] = "softmax"

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        return F.one_hot(targets, classes).to(torch.get_default_dtype()) if targets.ndim == 1 else targets

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        outputs = logits if self.output == "raw" else self.scores(logits)
        return F.mse_loss(outputs, targets.to(outputs.dtype))

    def scores(self, logits: Tensor) -> Tensor:
        match self.output:
            case "softmax":
                return logits.softmax(1)
            case "sigmoid":
                return logits.sigmoid()
            case _:
                return logits.clamp(0, 1)
