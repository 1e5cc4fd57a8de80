"""Prepares the image browser of a report: the test images that appear after a click on a cell of a confusion matrix.

``gather`` calls it, and ``templates/images.js`` reads the data. A page can show many runs on the same test set. It
contains each image once, as part of one large picture (the sprite). Each run adds only its three most probable classes
for each image. A cell is a pair of a true and a predicted class. Shapes: R runs, N test images, n of them on the page,
K classes.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from digitlab.core.errors import DigitlabError
from digitlab.figures.sprite import join_images
from digitlab.report.confusion import Cell, heat_map
from digitlab.report.records import Confusion, ReportedRun, rank_runs

# These limits keep a page small: the sprite and the predictions of all runs take at most about 1.5 MB each. Values are
# the colour values of all shown images. A prediction is one image in one run.
_MOST_IMAGES, _MOST_VALUES, _MOST_PREDICTIONS = 1500, 2_500_000, 150_000
_LEAST_IMAGES = 200  # if a page has so many runs that fewer images would fit, runs are left out instead
_FIRST_OF_A_CELL = 5  # this many images of each cell of the first run are chosen before all others
_MOST_CLASSES = 256  # the number of a class is stored in one byte
_LARGEST_SIDE = 64  # pixels; larger images are made smaller
_ANSWERS = 3  # this many of the most probable classes are stored for each image and run
_JPEG_BLOCK = 8  # pixels; JPEG compresses blocks, so each image starts at a block and does not blur into the next one
# Settings that change neither the test set nor the order of its images.
_SPLIT_KEYS = ("root", "batch_size", "val_size", "train_size", "split_seed", "normalize", "folds", "fold")

_Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBrowser:
    """The test images of one data set, and the predictions of the runs on it.

    ``heat`` is the confusion matrix of the first run, ``sprite`` a data URL, ``data`` JSON for the page's script.
    ``runs`` are the names of the shown runs. ``note`` says how many images and runs are on the page and why others are
    left out.
    """

    heat: Sequence[tuple[str, Sequence[Cell]]]
    sprite: str
    data: str
    note: str
    runs: Sequence[str]

    @property
    def style(self) -> Markup:
        """The CSS value ``url(…)`` of the sprite. One rule uses it for all images, so the page contains it once."""
        return Markup("url({})").format(Markup(self.sprite))


def browsers_of(records: Sequence[ReportedRun]) -> tuple[dict[str, ImageBrowser], list[str]]:
    """Return a browser for each data set, by its title, and a message for each data set that can't be read.

    A browser shows only runs with stored test predictions. The best run by the monitored metric comes first.
    """
    groups: dict[str, list[ReportedRun]] = {}
    for record in rank_runs(records):
        if record.folder.test_predictions.exists():
            groups.setdefault(record.data_title, []).append(record)
    browsers, messages = {}, []
    for title, ranked in groups.items():
        try:
            browser = _browser(ranked)
        except DigitlabError as error:
            messages.append(f"test images: {error}")
        else:
            if browser is not None:
                browsers[title] = browser
    return browsers, messages


def _browser(records: Sequence[ReportedRun]) -> ImageBrowser | None:
    """Return the browser of runs with one data set, the best run first; None if no predictions can be shown."""
    from digitlab.training.loading import load_data  # loads torch, which a page without images does not need

    data = load_data(records[0].folder)
    data.setup()
    images, labels = data.test_set.images.numpy(), data.test_set.labels.numpy()
    names = list(data.source.class_names)
    # A run with other settings of the data, for example with deskewing, has other test images than the best run.
    comparable = [record for record in records if _test_settings(record) == _test_settings(records[0])]
    stored_scores = {record.name: _scores(record, len(labels), len(names)) for record in comparable}
    all_scores = {name: scores for name, scores in stored_scores.items() if scores is not None}
    if not all_scores or len(names) > _MOST_CLASSES:
        return None
    # A test that was limited to some mini-batches covers only the first images. Show those that every run covers.
    tested = min(len(scores) for scores in all_scores.values())
    labels = labels[:tested]
    most = min(_MOST_IMAGES, _MOST_VALUES // int(np.prod(images.shape[1:])), tested)
    # First choose the runs, so that at least _LEAST_IMAGES fit for each, then as many images as fit for these runs.
    shown_runs = list(all_scores)[: max(1, _MOST_PREDICTIONS // min(_LEAST_IMAGES, most))]
    scores = np.stack([all_scores[name][:tested] for name in shown_runs])
    chosen = choose_images(scores, labels, most=max(1, min(most, _MOST_PREDICTIONS // len(shown_runs))))
    sprite, size, columns = _sprite(images[chosen])
    # The matrices count all tested images, not only those on the page.
    confusions = [_confusion(run_scores, labels, len(names)) for run_scores in scores]
    content = {
        "classes": names, "numbers": chosen.tolist(), "labels": labels[chosen].tolist(), "size": size,
        "columns": columns, "answers": _ANSWERS, "predictions": _packed(scores[:, chosen]),
        "counts": [_sparse(counts) for counts in confusions],
    }  # fmt: skip
    return ImageBrowser(
        heat=heat_map(Confusion(names, confusions[0].tolist())), sprite=sprite,
        data=json.dumps(content, separators=(",", ":"), ensure_ascii=False), runs=shown_runs,
        note=_note(len(chosen), tested, shown=len(shown_runs), left_out=len(records) - len(shown_runs)),
    )  # fmt: skip


def _note(images: int, tested: int, *, shown: int, left_out: int) -> str:
    """Return the text that says how many of the ``tested`` images are on the page, and how many runs are left out."""
    if images == tested:
        text = f"The page contains all {tested:,} test images."
    else:
        of_runs = " of every run" if shown > 1 else ""
        text = (
            f"To stay small, the page contains {images:,} of {tested:,} test images: in each cell{of_runs} first the "
            "most confident mistakes, and of the correct predictions first the least confident ones."
        )
    if left_out:
        text += (
            f" {left_out} run{'s are' if left_out > 1 else ' is'} left out, because of other test images or of size."
        )
    return text


def _test_settings(record: ReportedRun) -> Mapping[str, Any]:
    """Return the settings of a run's data that can change its test images or their order."""
    data = record.config.get("data") or {}
    return {key: value for key, value in data.items() if key not in _SPLIT_KEYS}


def _scores(record: ReportedRun, images: int, classes: int) -> _Scores | None:
    """Return the stored probabilities of the run, float32 (N, K) or for fewer images if its test was limited.

    Return None if they can't be read, or if they are not probabilities of this test set.
    """
    try:
        scores = record.folder.read_test_predictions().astype(np.float32)
    except (OSError, ValueError, KeyError):
        return None
    return scores if 0 < len(scores) <= images and scores.shape[1] == classes else None


def choose_images(scores: _Scores, labels: npt.NDArray[np.int64], *, most: int) -> npt.NDArray[np.int64]:
    """Choose at most ``most`` images for the page, and return their positions in ascending order.

    ``scores`` is (R, N, K), ``labels`` (N,). Images are ranked within each cell of each run: mistakes with the highest
    confidence come first, correct predictions with the lowest confidence come first. The page shows run 0 first, so the
    first images of each of its cells are chosen before all others. Then all images of rank 0 in any run are chosen,
    then those of rank 1, and so on. Among images of the same rank, those that more runs get wrong come first.
    """
    best_rank: npt.NDArray[np.int64] = np.full(len(labels), len(labels), np.int64)
    mistakes = np.zeros(len(labels), np.int64)
    chosen_first = np.zeros(len(labels), np.bool_)
    for run_index, run_scores in enumerate(scores):
        predicted, confidence = run_scores.argmax(1), run_scores.max(1)
        wrong = predicted != labels
        cells = labels * run_scores.shape[1] + predicted
        # Sort by cell, and within each cell in the order of the ranks. ``starts`` has the place of the first image of
        # the same cell, so the rank of an image is its distance to that place.
        order = np.lexsort((np.where(wrong, -confidence, confidence), cells))
        starts = np.searchsorted(cells[order], cells[order])
        ranks = np.empty(len(labels), np.int64)
        ranks[order] = np.arange(len(labels)) - starts
        best_rank = np.minimum(best_rank, ranks)
        if run_index == 0:
            chosen_first = ranks < _FIRST_OF_A_CELL
        mistakes += wrong
    # The last key of ``lexsort`` is the most important one.
    chosen: npt.NDArray[np.int64] = np.sort(np.lexsort((-mistakes, best_rank, ~chosen_first))[:most])
    return chosen


def _confusion(scores: _Scores, labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    """Return the number of images in each cell, (K, K), with a row for each true class."""
    return (
        np.bincount(labels * classes + scores.argmax(1), minlength=classes**2)
        .reshape(classes, classes)
        .astype(np.int64)
    )


def _sparse(counts: npt.NDArray[np.int64]) -> list[int]:
    """Return the counts (K, K) as a flat list of three numbers for each cell with images: true class, predicted, count.

    Most cells are empty, so this is shorter than the matrix.
    """
    rows, columns = counts.nonzero()
    triples: list[int] = np.stack([rows, columns, counts[rows, columns]], axis=1).ravel().tolist()
    return triples


def _packed(scores: _Scores) -> str:
    """Return the three most probable classes and their probabilities, from scores (R, n, K), as base64.

    There are six bytes for each run and image: three classes, the most probable first, then their probabilities times
    255.
    """
    classes = np.argsort(-scores, axis=2, kind="stable")[:, :, :_ANSWERS]
    values = np.take_along_axis(scores, classes, axis=2)
    packed = np.concatenate([classes, np.rint(255 * values.clip(0, 1))], axis=2).astype(np.uint8)
    if (missing := _ANSWERS - classes.shape[2]) > 0:  # with two classes, a 0 fills the third place
        halves = np.split(packed, 2, axis=2)  # the classes and the probabilities
        packed = np.concatenate([np.pad(half, ((0, 0), (0, 0), (0, missing))) for half in halves], axis=2)
    return base64.b64encode(packed.tobytes()).decode()


def _sprite(images: npt.NDArray[np.uint8]) -> tuple[str, list[int], int]:
    """Join images, uint8 (n, C, H, W), in a grid, which is one picture.

    Return the data URL of the picture, [width, height] of one image in pixels, and the number of columns of the grid.
    Colour images become a JPEG, which takes a third of the space of a PNG.
    """
    pixels = images.transpose(0, 2, 3, 1)
    # The side divided by the limit, rounded up. Keeping every ``step``-th pixel is good enough for a small picture.
    if (step := -(-max(pixels.shape[1:3]) // _LARGEST_SIDE)) > 1:
        pixels = pixels[:, ::step, ::step]
    colour = pixels.shape[3] == 3
    if not colour:
        pixels = pixels.astype(np.float32).mean(3, keepdims=True).round().astype(np.uint8)
    if colour:
        below, right = (-side % _JPEG_BLOCK for side in pixels.shape[1:3])
        pixels = np.pad(pixels, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    count, height, width, _ = pixels.shape
    columns = int(np.ceil(count**0.5))
    joined = join_images(pixels, columns=columns)
    file = io.BytesIO()
    picture = Image.fromarray(joined if colour else joined[:, :, 0])
    if colour:
        # Without subsampling, the colours keep the full resolution, which small images need.
        picture.save(file, "JPEG", quality=88, subsampling=0, optimize=True)
    else:
        picture.save(file, "PNG", optimize=True)
    file_type = "jpeg" if colour else "png"
    return f"data:image/{file_type};base64,{base64.b64encode(file.getvalue()).decode()}", [width, height], columns
