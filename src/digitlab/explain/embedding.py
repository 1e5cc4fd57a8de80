"""Turns the last hidden layer of many images into points: in two dimensions by PCA and t-SNE, or for the projector.

``learned`` draws the points in two dimensions. ``projector`` writes all values for TensorBoard's projector. Shapes: N
images, K classes, D values of the last hidden layer.
"""

from dataclasses import dataclass

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.data.sampling import spread_evenly
from digitlab.explain.network import ExplainedRun
from digitlab.figures.embedding import Panel

_PERPLEXITY = 30  # about how many neighbours of a point t-SNE keeps close; the usual value


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """N images of a split: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,), ``scores`` (N, K), ``hidden`` (N, D).

    ``numbers`` int64 (N,) are their positions in the test set, or in the training set for validation images.
    """

    numbers: Tensor
    images: Tensor
    labels: Tensor
    scores: Tensor
    hidden: Tensor


def embed(run: ExplainedRun, *, most: int) -> Embedding:
    """Compute the last hidden layer of at most ``most`` images of the split, spread evenly over it.

    Raises ``RunError`` if the run has no validation images and was not tested.
    """
    tested = run.split == "test"
    images = run.data.test_set if tested else run.data.train_set
    numbers = spread_evenly(torch.arange(len(images.labels)) if tested else run.data.val_indices, most)
    if len(numbers) < 3:
        kind = "test" if tested else "validation"
        raise RunError(
            f"{run.folder.path}: has {len(numbers)} {kind} images, and an embedding needs at least 3: train a run with "
            f"more {kind} images{'' if tested else ', or one that is tested (test=best)'}"
        )
    chosen = images.images[numbers]
    return Embedding(
        numbers=numbers, images=chosen, labels=images.labels[numbers], scores=run.scores(chosen),
        hidden=run.hidden(chosen),
    )  # fmt: skip


def panels(hidden: Tensor) -> list[Panel]:
    """Project hidden layers (N, D) to two dimensions, by PCA and by t-SNE (van der Maaten and Hinton, 2008).

    t-SNE starts from the plane of PCA, so the same layers give the same picture.
    """
    values = hidden.double().numpy()
    pca = PCA(n_components=2, svd_solver="full").fit(values)
    first, second = (100 * share for share in pca.explained_variance_ratio_)
    # scikit-learn requires a perplexity below the number of points.
    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(values)
    return [
        Panel(
            "PCA: distances are true, but only in two directions", torch.from_numpy(pca.transform(values)),
            (f"first component ({first:.0f} % of the variance)", f"second component ({second:.0f} %)"),
        ),
        Panel("t-SNE: neighbours are true, distances between groups are not", torch.from_numpy(points), ("", "")),
    ]  # fmt: skip
