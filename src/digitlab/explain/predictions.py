"""Explains predictions of a run, for the user's images or for its most confident mistakes.

``digitlab explain`` uses it. Shapes: N images, C channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.explain.attributions import methods_for
from digitlab.explain.neighbours import Neighbours, nearest_training_images
from digitlab.explain.network import ExplainedRun, as_floats
from digitlab.figures.explanations import ExplainedImage, NearImage, explanations_figure
from digitlab.figures.formatting import format_confidence
from digitlab.figures.images import most_confident_mistakes
from digitlab.figures.run_data import predict_split
from digitlab.figures.style import SPLIT_NAMES

_NEIGHBOURS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """The images to explain: ``pixels`` (N, C, H, W), uint8 or in [0, 1], N names, and N labels if they are known."""

    pixels: Tensor
    names: Sequence[str]
    labels: Sequence[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The explanation of N images: their ``scores`` (N, K), the explained classes ``targets``, int64 (N,), the maps
    (N, H, W) of each method by name, and the nearest training images.
    """

    subjects: Subjects
    scores: Tensor
    targets: Tensor
    maps: dict[str, Tensor]
    neighbours: Neighbours


def confident_mistakes(run: ExplainedRun, *, count: int) -> Subjects:
    """Return the ``count`` wrong predictions with the highest confidence, on the test set if the run was tested.

    Raises ``RunError`` if the run has no evaluated images or makes no mistake.
    """
    images, labels, scores = _predictions(run)
    if not len(labels):
        raise RunError(f"{run.folder.path}: the run has no validation images and was not tested: give your own images")
    indices = most_confident_mistakes(labels, scores, count=count)
    if not len(indices):
        text = f"the network classifies every {SPLIT_NAMES[run.split]} image correctly: give your own images"
        raise RunError(f"{run.folder.path}: {text}")
    return Subjects(
        pixels=images[indices], names=[f"{SPLIT_NAMES[run.split]} image {number}" for number in indices.tolist()],
        labels=labels[indices].tolist(),
    )  # fmt: skip


def _predictions(run: ExplainedRun) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, labels and scores of the split; the scores of a test come from the file that the run wrote."""
    if run.split == "test":
        # Without a readable file, the predictions are computed again.
        with suppress(OSError, KeyError, ValueError):
            scores = torch.from_numpy(run.folder.read_test_predictions()).float()
            test_set = run.data.test_set
            return test_set.images[: len(scores)], test_set.labels[: len(scores)], scores
    return predict_split(run.classifier, run.data, run.split)


def explain(run: ExplainedRun, subjects: Subjects, *, target: int | None = None) -> Explanation:
    """Explain the predicted class of each image, or the class ``target``."""
    scores = run.scores(subjects.pixels)
    targets = scores.argmax(1) if target is None else torch.full((len(scores),), target)
    methods = methods_for(run.network, layer=run.last_convolution, baseline=empty_colour(run))
    pixels = as_floats(subjects.pixels)
    maps = {name: method(pixels, targets) for name, method in methods.items()}
    neighbours = nearest_training_images(run, subjects.pixels, count=_NEIGHBOURS)
    return Explanation(subjects=subjects, scores=scores, targets=targets, maps=maps, neighbours=neighbours)


def empty_colour(run: ExplainedRun) -> Tensor:
    """Return the colour (C,) in [0, 1] of an image without content.

    It is black if each image of the data set shows one figure on black, such as a digit, otherwise the mean colour.
    """
    facts = run.classifier.facts
    # Only data sets of figures on black have a margin around the figure.
    return torch.tensor([0.0] * len(facts.mean) if facts.margin_pixels is not None else facts.mean)


def lines(run: ExplainedRun, explanation: Explanation) -> list[list[str]]:
    """Return one row of text for each image: name, predicted class, confidence, true class, nearest training labels."""
    names, labels = run.class_names, explanation.subjects.labels
    confidences, predicted = explanation.scores.max(1)
    nearest = run.data.train_set.labels[explanation.neighbours.indices]
    return [
        [
            subject, names[predicted[number]], format_confidence(float(confidences[number])),
            "" if labels is None else names[labels[number]],
            ", ".join(names[label] for label in nearest[number].tolist()),
        ]
        for number, subject in enumerate(explanation.subjects.names)
    ]  # fmt: skip


def figure(run: ExplainedRun, explanation: Explanation) -> Figure:
    """Draw one row for each image: the image, the map of each method, and the nearest training images."""
    subjects, neighbours, train = explanation.subjects, explanation.neighbours, run.data.train_set
    rows = [
        ExplainedImage(
            image=subjects.pixels[number], name=subjects.names[number], scores=explanation.scores[number],
            target=int(explanation.targets[number]), label=None if subjects.labels is None else subjects.labels[number],
            maps={name: maps[number] for name, maps in explanation.maps.items()},
            nearest=[
                NearImage(train.images[index], int(train.labels[index]), similarity)
                for index, similarity in zip(
                    neighbours.indices[number].tolist(), neighbours.similarities[number].tolist(), strict=True
                )
            ],
        )
        for number in range(len(subjects.names))
    ]  # fmt: skip
    return explanations_figure(
        rows, class_names=run.class_names, title=f"explained predictions: {run.title}", candidates=neighbours.candidates
    )
