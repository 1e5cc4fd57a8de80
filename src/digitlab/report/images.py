"""Prepares the test images that a report shows after a click on a cell of the confusion matrix.

A page can show many runs on the same test set. It contains each image once, in one large picture (sprite); each run
adds only its three most probable classes for each image. A cell is a pair of true and predicted class. Shapes: R runs,
N test images, n images on the page, K classes.
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
from digitlab.report.confusion import Cell, heat_map
from digitlab.report.records import Confusion, ReportedRun, rank_runs

# With these limits the sprite and the predictions of all runs take at most about 1.5 MB each. Values are colour values
# of the shown images; predictions are counted for each image and run.
_MOST_IMAGES, _MOST_VALUES, _MOST_PREDICTIONS = 1500, 2_500_000, 150_000
_LEAST_IMAGES = 200  # with many runs: if fewer images would fit, runs are left out instead
_FIRST_OF_A_CELL = 5  # images of each cell that are shown for the first run, even if other runs need the space
_MOST_CLASSES = 256  # the number of a class is stored in one byte
_LARGEST_SIDE = 64  # pixels; larger images are made smaller
_ANSWERS = 3  # the most probable classes that are stored for each image and run
_JPEG_BLOCK = 8  # pixels; JPEG compresses blocks, so each image starts at a block and does not blur into the next one
# Settings that change neither the test set nor the order of its images.
_SPLIT_KEYS = ("root", "batch_size", "val_size", "train_size", "split_seed", "normalize", "folds", "fold")

_Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBrowser:
    """The images of one data set on a page: the matrix of the first run, the sprite, and data for the page's script.

    ``sprite`` is a data URL, ``data`` is JSON, ``runs`` are the names of the shown runs. ``note`` tells how many images
    and runs are on the page and why others are left out.
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

    Runs without stored test predictions are not shown. The best run by the monitored metric comes first.
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
    # Another setting of the data, for example deskewing, gives other test images than those of the best run.
    comparable = [record for record in records if _test_settings(record) == _test_settings(records[0])]
    found = {record.name: _scores(record, len(labels), len(names)) for record in comparable}
    all_scores = {name: scores for name, scores in found.items() if scores is not None}
    if not all_scores or len(names) > _MOST_CLASSES:
        return None
    # A test that was limited to some mini-batches has only the first images. All runs show what all have tested.
    tested = min(len(scores) for scores in all_scores.values())
    labels = labels[:tested]
    most = min(_MOST_IMAGES, _MOST_VALUES // int(np.prod(images.shape[1:])), tested)
    shown_runs = list(all_scores)[: max(1, _MOST_PREDICTIONS // min(_LEAST_IMAGES, most))]
    scores = np.stack([all_scores[name][:tested] for name in shown_runs])
    chosen = choose_images(scores, labels, most=max(1, min(most, _MOST_PREDICTIONS // len(shown_runs))))
    sprite, size, columns = _sprite(images[chosen])
    confusions = [_confusion(of_run, labels, len(names)) for of_run in scores]
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
    if images == tested:
        text = f"The page contains all {tested:,} test images."
    else:
        of = " of every run" if shown > 1 else ""
        text = (
            f"To stay small, the page contains {images:,} of {tested:,} test images: in each cell{of} first the most "
            "confident mistakes, and of the correct predictions first the least confident ones."
        )
    if left_out:
        text += (
            f" {left_out} run{'s are' if left_out > 1 else ' is'} left out, because of other test images or of size."
        )
    return text


def _test_settings(record: ReportedRun) -> Mapping[str, Any]:
    """Return the settings of the data that can change its test images or their order."""
    data = record.config.get("data") or {}
    return {key: value for key, value in data.items() if key not in _SPLIT_KEYS}


def _scores(record: ReportedRun, images: int, classes: int) -> _Scores | None:
    """Return the run's probabilities for the first test images, float32; None if they do not fit the test set."""
    try:
        scores = record.folder.read_test_predictions().astype(np.float32)
    except (OSError, ValueError, KeyError):
        return None
    return scores if 0 < len(scores) <= images and scores.shape[1] == classes else None


def choose_images(scores: _Scores, labels: npt.NDArray[np.int64], *, most: int) -> npt.NDArray[np.int64]:
    """Choose at most ``most`` images for the page, and return their positions in ascending order.

    ``scores`` is (R, N, K), ``labels`` (N,). In each cell of each run the images are ranked: mistakes with the highest
    confidence come first, correct predictions with the lowest. The best-ranked images of each cell of run 0, which the
    page shows first, are chosen before all others. Then all images of rank 0 in any run are chosen, then those of rank
    1, and so on; of images with the same rank, those that more runs get wrong come first.
    """
    best_rank: npt.NDArray[np.int64] = np.full(len(labels), len(labels), np.int64)
    mistakes = np.zeros(len(labels), np.int64)
    always = np.zeros(len(labels), np.bool_)
    for number, of_run in enumerate(scores):
        predicted, confidence = of_run.argmax(1), of_run.max(1)
        wrong = predicted != labels
        cells = labels * of_run.shape[1] + predicted
        # Sort by cell, and within a cell as it is ranked. The rank is the distance to the first image of the cell.
        order = np.lexsort((np.where(wrong, -confidence, confidence), cells))
        starts = np.searchsorted(cells[order], cells[order])
        ranks = np.empty(len(labels), np.int64)
        ranks[order] = np.arange(len(labels)) - starts
        best_rank = np.minimum(best_rank, ranks)
        if number == 0:
            always = ranks < _FIRST_OF_A_CELL
        mistakes += wrong
    # ``lexsort`` sorts by its last key first.
    chosen: npt.NDArray[np.int64] = np.sort(np.lexsort((-mistakes, best_rank, ~always))[:most])
    return chosen


def _confusion(scores: _Scores, labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    return (
        np.bincount(labels * classes + scores.argmax(1), minlength=classes**2)
        .reshape(classes, classes)
        .astype(np.int64)
    )


def _sparse(counts: npt.NDArray[np.int64]) -> list[int]:
    """Return a flat list with three numbers for each cell that has images: true class, predicted class, count."""
    rows, columns = counts.nonzero()
    flat: list[int] = np.stack([rows, columns, counts[rows, columns]], axis=1).ravel().tolist()
    return flat


def _packed(scores: _Scores) -> str:
    """Return the most probable classes and their probabilities, from scores (R, n, K), as base64.

    Each run and image has six bytes: three classes, the most probable first, then their probabilities times 255.
    """
    classes = np.argsort(-scores, axis=2, kind="stable")[:, :, :_ANSWERS]
    values = np.take_along_axis(scores, classes, axis=2)
    packed = np.concatenate([classes, np.rint(255 * values.clip(0, 1))], axis=2).astype(np.uint8)
    if (missing := _ANSWERS - classes.shape[2]) > 0:  # a data set with two classes: 0 fills the third place
        halves = np.split(packed, 2, axis=2)  # the classes and the probabilities
        packed = np.concatenate([np.pad(half, ((0, 0), (0, 0), (0, missing))) for half in halves], axis=2)
    return base64.b64encode(packed.tobytes()).decode()


def _sprite(images: npt.NDArray[np.uint8]) -> tuple[str, list[int], int]:
    """Join images, uint8 (n, C, H, W), in a grid, which is one picture.

    Return the data URL of the picture, [width, height] of one image in pixels, and the number of columns of the grid.
    Colour images become a JPEG, which takes a third of the space of a PNG.
    """
    pixels = images.transpose(0, 2, 3, 1)
    if (step := -(-max(pixels.shape[1:3]) // _LARGEST_SIDE)) > 1:
        pixels = pixels[:, ::step, ::step]
    colour = pixels.shape[3] == 3
    if not colour:
        pixels = pixels.astype(np.float32).mean(3, keepdims=True).round().astype(np.uint8)
    if colour:
        below, right = (-side % _JPEG_BLOCK for side in pixels.shape[1:3])
        pixels = np.pad(pixels, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    count, height, width, channels = pixels.shape
    columns = int(np.ceil(count**0.5))
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, height, width, channels), np.uint8)
    grid[:count] = pixels
    joined = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(rows * height, -1, channels)
    file = io.BytesIO()
    picture = Image.fromarray(joined if colour else joined[:, :, 0])
    if colour:
        picture.save(file, "JPEG", quality=88, subsampling=0, optimize=True)
    else:
        picture.save(file, "PNG", optimize=True)
    kind = "jpeg" if colour else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}", [width, height], columns
