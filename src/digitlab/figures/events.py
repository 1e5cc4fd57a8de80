"""Sends figures, weight histograms and precision-recall curves to TensorBoard through the run's writer.

The callback of a solo run uses these functions, and so do the members of a population, which are runs that are trained
together. Matplotlib is imported only inside functions that draw, so that checking a configuration does not load it.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from digitlab.data.module import ImageData
from digitlab.results.writer import RunWriter
from digitlab.training.classifier import Classifier
from digitlab.training.run_state import RunState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLES_PER_CLASS = 5


def samples(data: ImageData) -> npt.NDArray[np.uint8]:
    """Draw a few training images of each class: uint8 (rows, columns, RGBA).

    ``send_samples`` sends the picture. A population draws it once for all members.
    """
    from digitlab.figures.samples import first_of_each_class, sample_grid
    from digitlab.figures.style import pixels

    source, labels = data.source, data.train_set.labels[data.train_indices]
    chosen = first_of_each_class(labels, classes=len(source.class_names), count=_SAMPLES_PER_CLASS)
    images = data.train_set.images[data.train_indices[chosen]].cpu()
    title = f"{source.title}, training images"
    return pixels(sample_grid(images, labels[chosen].cpu(), class_names=source.class_names, title=title))


def send_samples(writer: RunWriter, picture: npt.NDArray[np.uint8]) -> None:
    writer.picture("samples", picture, step=0)


def send_epoch(writer: RunWriter, classifier: Classifier, data: ImageData, run_state: RunState) -> None:
    """Send every figure of ``digitlab figures``, drawn from the current network and the validation images.

    Send histograms of the weights and, if there are validation images, precision-recall curves as well. This is called
    after each epoch if the key ``figures.each_epoch`` is true.
    """
    from digitlab.figures.gallery import FIGURES, NotApplicableError
    from digitlab.figures.run_data import collect_run_data, curves

    rows, best, step = run_state.rows, run_state.best_tracker.best, classifier.position.total_steps
    run = collect_run_data(
        classifier, data, split="val",
        epochs=curves(rows, against="epoch"), steps=curves(rows, against="step"),
        best=None if best is None else (best.epoch, best.step),
    )  # fmt: skip
    for name, draw in FIGURES.items():
        try:
            _send(writer, f"each_epoch/{name}", draw(run), step=step)
        except NotApplicableError:
            continue
    send_weights(writer, classifier)
    if len(run.labels):
        writer.precision_recall(run.scores, run.labels, run.class_names, step=step)


def send_weights(writer: RunWriter, classifier: Classifier) -> None:
    writer.weights(classifier.network, step=classifier.position.total_steps)


def send_test(writer: RunWriter, classifier: Classifier) -> None:
    """Send the confusion matrix and the precision-recall curves of the test that has just finished."""
    from digitlab.figures.confusion import confusion_pixels

    scores, labels = tested(classifier)
    names, step = tuple(classifier.facts.class_names), classifier.position.total_steps
    title = f"{classifier.facts.title}, {type(classifier.network).__name__}: test images"
    confusion = classifier.evaluation.confusion.cpu()
    picture = confusion_pixels(confusion, class_names=names, title=title)
    writer.picture("confusion_matrix", picture, step=step)
    writer.precision_recall(scores.float(), labels, names, step=step)


def tested(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Return the scores (N, K) and the labels, int64 (N,), of the test that has just finished, on the CPU."""
    return torch.cat(classifier.test_scores).cpu(), torch.cat(classifier.test_labels).cpu()


def _send(writer: RunWriter, tag: str, figure: "Figure", *, step: int) -> None:
    from digitlab.figures.style import pixels

    writer.picture(tag, pixels(figure), step=step)
