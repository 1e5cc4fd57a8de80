"""The training images that a network sees as most similar to an image: nearest in its last hidden layer."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from digitlab.explain.network import ExplainedRun

_MOST_CANDIDATES = 10_000  # more training images would take most of the time of the command


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For N images the ``indices``, int64 (N, n), of the n nearest of ``candidates`` training images, nearest first.

    ``similarities`` (N, n) are the cosines in [-1, 1] of the last hidden layers.
    """

    indices: Tensor
    similarities: Tensor
    candidates: int


def nearest_training_images(
    run: ExplainedRun, pixels: Tensor, *, count: int, most: int = _MOST_CANDIDATES
) -> Neighbours:
    """Find the ``count`` nearest images in the training split, or in ``most`` images spread evenly over it.

    The cosine ignores the length of a hidden layer, which mainly says how sure the network is.
    """
    chosen = evenly(run.data.train_indices, most)
    hidden = normalize(run.hidden(run.data.train_set.images[chosen]), dim=1)
    similarities = normalize(run.hidden(pixels), dim=1) @ hidden.T
    nearest = similarities.topk(min(count, len(chosen)), dim=1)
    return Neighbours(chosen[nearest.indices], nearest.values, len(chosen))


def evenly(indices: Tensor, most: int) -> Tensor:
    """Return at most ``most`` of ``indices``, spread evenly over them, in their order."""
    if len(indices) <= most:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, most).round().long()]
