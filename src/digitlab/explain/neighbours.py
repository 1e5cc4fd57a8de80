"""Finds the training images that are most similar to an image for a network: the nearest in its last hidden layer.

``predictions`` shows them next to an explained image.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from digitlab.data.sampling import spread_evenly
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


def nearest_training_images(run: ExplainedRun, pixels: Tensor, *, count: int) -> Neighbours:
    """Find the ``count`` training images whose last hidden layers are nearest to those of ``pixels`` (N, C, H, W).

    With more than 10,000 training images, only 10,000 of them, spread evenly over the split, are compared. Fewer than
    ``count`` are found if there are fewer candidates.

    The cosine ignores the length of a hidden layer, which mainly says how sure the network is.
    """
    candidates = spread_evenly(run.data.train_indices, _MOST_CANDIDATES)
    hidden = normalize(run.hidden(run.data.train_set.images[candidates]), dim=1)
    similarities = normalize(run.hidden(pixels), dim=1) @ hidden.T
    nearest = similarities.topk(min(count, len(candidates)), dim=1)
    return Neighbours(candidates[nearest.indices], nearest.values, len(candidates))
