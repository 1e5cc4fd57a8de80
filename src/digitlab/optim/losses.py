"""Losses: from logits and targets to the mean over a mini-batch, and from logits to the scores of the classes."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from digitlab.config.schema import Rate, settings


class Loss(ABC):
    """Losses of logits (N, K) against targets as ``encode`` makes them."""

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        """Labels int64 (N,) or, after mix-up, class weights float (N, K), in the form that the loss takes.

        Apart from the loss itself, so that it is done for many mini-batches at once.
        """
        return targets

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over the mini-batch of logits (N, K): a float scalar."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Logits (N, K) as confidences in [0, 1], (N, K), that keep their order."""


@settings
class CrossEntropy(Loss):
    """Cross-entropy of the softmax; ``label_smoothing`` after Szegedy et al. (2016)."""

    label_smoothing: Rate = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


@settings
class MeanSquaredError(Loss):
    """Mean over outputs and mini-batch of (output - one-hot target)²."""

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
