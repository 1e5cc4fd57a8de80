"""Compares the predictions of two finished runs on the same test images, from their ``test_predictions.npz``."""

import numpy as np
import numpy.typing as npt

from digitlab.compare.groups import ComparedRun
from digitlab.compare.statistics import McNemar, mcnemar
from digitlab.results.folder import RunFolder


def compare_predictions(first: ComparedRun, second: ComparedRun) -> McNemar | str:
    """McNemar's test of two runs on the same data set, or the reason why it is not possible."""
    scores = []
    for run in (first, second):
        try:
            scores.append(run.folder.read_test_predictions())
        except (OSError, ValueError, KeyError):
            return f"{run.folder.path.name} has no readable {run.folder.test_predictions.name}"
    if len(scores[0]) != len(scores[1]):
        return f"the runs were tested on {len(scores[0])} and {len(scores[1])} images"
    labels = _test_labels(first.folder)
    if len(labels) != len(scores[0]):
        return f"the runs were tested on {len(scores[0])} of {len(labels)} images"
    # An additional class for unknown images has an index that no label has, so it counts as wrong.
    return mcnemar(*(own.argmax(1) == labels for own in scores))


def _test_labels(run: RunFolder) -> npt.NDArray[np.int64]:
    from digitlab.training.loading import load_data  # loads torch, which other comparisons do not need

    data = load_data(run)
    data.setup()
    labels: npt.NDArray[np.int64] = data.test_set.labels.numpy()
    return labels


def mcnemar_sentence(test: McNemar, first: str, second: str) -> str:
    """The result in plain English."""
    return (
        f"On the {test.images:,} test images, only {first} is right on {test.only_first}, only {second} on "
        f"{test.only_second} (McNemar's exact test: p = {test.p_value:.2g}). This is about these two networks, not "
        f"about their settings with other seeds."
    )
