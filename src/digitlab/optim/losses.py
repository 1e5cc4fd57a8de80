"""Losses. They compute the mean loss of a mini-batch from logits and targets, and convert logits to confidences.

``conf/loss/`` names them; ``training`` and ``engine`` call them. Targets are *encoded* first: converted from labels to
the form that the loss takes. N images, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from digitlab.config.schema import Rate, settings
from digitlab.core.abilities import abilities
from digitlab.optim.class_weights import ClassWeights, weight_of_each_class


class Loss(ABC):
    """The base class of losses."""

    def for_classes(self, class_names: Sequence[str], train_counts: Sequence[int] | None) -> "Loss":
        """Return the loss for these K classes; ``train_counts`` are their images in the training split, if known.

        Raises ``ConfigError`` if a setting names a class that does not exist.
        """
        return self

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        """Convert targets to the form that the loss takes.

        ``targets`` are labels, int64 (N,), or class probabilities, float (N, K), if the augmentation mixed images of
        several classes. This is separate from ``__call__`` so that it can be done for many mini-batches at once.
        """
        return targets

    def image_weights(self, targets: Tensor) -> Tensor | None:
        """Return the weight of each image in the mean, float (N,), for encoded targets; None if all count alike."""
        return None

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, K) over the mini-batch: a float scalar tensor. ``targets`` are encoded."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Convert logits (N, K) to confidences in [0, 1], (N, K); a larger logit never gets a smaller confidence."""


@settings
class CrossEntropy(Loss):
    """Cross-entropy of the softmax, in nats; ``label_smoothing`` after Szegedy et al. (2016).

    ``class_weights`` give classes other weights than 1, as in ``torch.nn.CrossEntropyLoss``; ``balanced`` makes up for
    different numbers of training images. A loss with class weights can't be called: call the one that ``for_classes``
    returns.
    """

    label_smoothing: Rate = 0.0
    class_weights: ClassWeights | None = None

    def for_classes(self, class_names: Sequence[str], train_counts: Sequence[int] | None) -> Loss:
        if self.class_weights is None:
            return self
        weights = weight_of_each_class(self.class_weights, class_names, train_counts)
        return WeightedCrossEntropy(weights=weights, label_smoothing=self.label_smoothing)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        assert self.class_weights is None, "call for_classes first"
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class WeightedCrossEntropy(Loss):
    """Cross-entropy with a weight for each of K classes, equal to ``torch.nn.CrossEntropyLoss(weight, …)``.

    The mean is the sum of the images' losses divided by the sum of their weights: the weight of an image is that of its
    class, or 1 if it is a mixture of images. Encoded targets are (N, K + 1): the smoothed class probabilities times the
    class weights, and then the weight of the image. Targets are an input of compiled updates, so a compiled update
    works with any class weights.
    """

    def __init__(self, *, weights: Sequence[float], label_smoothing: float = 0.0) -> None:
        self.weights, self.label_smoothing = list(weights), label_smoothing
        self._weights_by_device: dict[torch.device, Tensor] = {}

    def encode(self, targets: Tensor, classes: int) -> Tensor:
        weights = self._weights(targets.device)
        are_labels = targets.ndim == 1
        probabilities = (F.one_hot(targets, classes) if are_labels else targets).to(weights.dtype)
        smoothed = probabilities * (1 - self.label_smoothing) + self.label_smoothing / classes
        image_weights = weights[targets] if are_labels else torch.ones_like(probabilities[:, 0])
        return torch.cat([smoothed * weights, image_weights.unsqueeze(1)], dim=1)

    def _weights(self, device: torch.device) -> Tensor:
        """Return the weights of the K classes on ``device``."""
        if device not in self._weights_by_device:
            # If possible float64, so that a run in double precision does not start from rounded weights.
            dtype = abilities(device).widest_float
            self._weights_by_device[device] = torch.tensor(self.weights, dtype=dtype, device=device)
        return self._weights_by_device[device]

    def image_weights(self, targets: Tensor) -> Tensor:
        return targets[..., -1]

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_probabilities = logits.log_softmax(1)
        targets = targets.to(log_probabilities.dtype)
        return -(log_probabilities * targets[:, :-1]).sum() / self.image_weights(targets).sum()

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


@settings
class MeanSquaredError(Loss):
    """The mean of (output - one-hot target)² over outputs and mini-batch.

    ``output`` says what an output is: the softmax or the sigmoid of the logits, or the logits themselves (``raw``). Raw
    outputs are clamped to [0, 1] as confidences.
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
