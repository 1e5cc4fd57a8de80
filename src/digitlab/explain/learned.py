"""Draws what a network has learned: images of its classes, filters and feature maps, and its last hidden layer.

``digitlab explain`` calls it.
"""

from matplotlib.figure import Figure
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.explain.class_images import class_images
from digitlab.explain.network import ExplainedRun, as_floats, outputs_of
from digitlab.explain.predictions import empty_colour
from digitlab.figures.explanations import class_images_figure, feature_maps_figure
from digitlab.figures.style import SPLIT_NAMES

_MAPS_PER_CONVOLUTION = 8


def classes_figure(run: ExplainedRun) -> Figure:
    """Draw for each class an image that maximises its score, with the confidence that the network has in it."""
    size = run.image_shape[1:]
    images = class_images(run.network, empty=empty_colour(run), size=size, classes=len(run.class_names))
    title = f"images that maximise the score of a class, and its confidence: {run.title}"
    return class_images_figure(images, run.scores(images), class_names=run.class_names, title=title)


def layers_figure(run: ExplainedRun, image: Tensor) -> Figure:
    """Draw the filters of the first convolution, and the feature maps of each convolution for an image (C, H, W).

    Raises ``RunError`` if the network has no convolution.
    """
    convolutions = run.convolutions
    if not convolutions:
        raise RunError(
            f"{run.folder.path}: the network has no convolution, so there are no filters or feature maps to draw: "
            "leave out --what layers"
        )
    first = next(iter(convolutions.values())).weight.detach().cpu()
    maps = {name: output[0] for name, output in outputs_of(run, convolutions, as_floats(image[None])).items()}
    return feature_maps_figure(
        image, maps, filters=first, columns=_MAPS_PER_CONVOLUTION,
        title=f"filters of the first convolution and feature maps of each convolution: {run.title}. Maps: red is "
        "positive, blue negative; each map has its own scale",
    )  # fmt: skip


def points_figure(run: ExplainedRun, *, most: int) -> Figure:
    """Draw the last hidden layer of at most ``most`` images by PCA and t-SNE."""
    from digitlab.explain.embedding import embed, panels  # scikit-learn takes a second to import
    from digitlab.figures.embedding import embedding_figure

    embedding = embed(run, most=most)
    title = f"last hidden layer of {len(embedding.labels):,} {SPLIT_NAMES[run.split]} images: {run.title}"
    return embedding_figure(panels(embedding.hidden), embedding.labels, class_names=run.class_names, title=title)
