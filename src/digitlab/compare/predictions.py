"""Compares the predictions of two finished runs on the same test images, from their ``test_predictions.npz``.

``digitlab compare`` and ``digitlab.compare_runs`` use it if both sides are single runs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from digitlab.compare.groups import ComparedRun, Group
from digitlab.compare.statistics import McNemar, mcnemar
from digitlab.core.errors import DataError
from digitlab.results.folder import RunFolder


def compare_images(groups: Sequence[Group]) -> tuple[list[str], list[str]]:
    """Compare two runs image by image with McNemar's test; return sentences and notes.

    There is one sentence with the result, or, if the test is not possible, one note that says why. Both lists are empty
    unless there are two groups of one run each. Call ``compare_groups`` before: it refuses runs on different data sets.
    """
    if len(groups) != 2 or any(len(group.runs) != 1 for group in groups):
        return [], []
    first, second = groups
    test = _compare(first.runs[0], second.runs[0])
    if isinstance(test, str):
        return [], [f"no test of single images: {test}"]
    return [_sentence(test, first.name, second.name)], []


def _compare(first: ComparedRun, second: ComparedRun) -> McNemar | str:
    """Return McNemar's test of two runs on the same data set, or a text that says why it is not possible."""
    probabilities = []  # of both runs, float16 (N, K)
    for run in (first, second):
        try:
            probabilities.append(run.folder.read_test_predictions())
        except (OSError, ValueError, KeyError):
            return f"{run.folder.path.name} has no readable {run.folder.test_predictions.name}"
    counts = len(probabilities[0]), len(probabilities[1])
    if counts[0] != counts[1]:
        return f"the runs were tested on {counts[0]} and {counts[1]} images"
    try:
        labels = _test_labels(first.folder)
    except DataError as error:  # the runs themselves have been compared without the data set
        return str(error)
    if len(labels) != counts[0]:
        return f"the runs were tested on {counts[0]} of {len(labels)} images"
    # A network may have an additional class "none" for images of no class (see ``digitlab.data.unknown_class``). No
    # test image has this label, so the prediction "none" counts as wrong.
    first_correct, second_correct = (each.argmax(1) == labels for each in probabilities)
    return mcnemar(first_correct, second_correct)


def _test_labels(run: RunFolder) -> npt.NDArray[np.int64]:
    """Return the labels (N,) of all test images of the run's data set."""
    from digitlab.training.loading import load_data  # imports torch, which other comparisons do not need

    data = load_data(run)
    data.setup()
    labels: npt.NDArray[np.int64] = data.test_set.labels.numpy()
    return labels


def _sentence(test: McNemar, first: str, second: str) -> str:
    return (
        f"On the {test.images:,} test images, only {first} is right on {test.only_first}, only {second} on "
        f"{test.only_second} (McNemar's exact test: p = {test.p_value:.2g}). This is about these two networks, not "
        f"about their settings with other seeds."
    )
