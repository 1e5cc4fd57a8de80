"""The test images behind the cells of a confusion matrix, for one run or for many runs on the same test set.

Every image is stored once, in one picture (sprite), however many runs are shown; a run adds only its three most
probable classes for each image. Shapes: R runs, N test images, n images on the page, K classes.
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

# The sprite and the predictions of all runs take at most about 1.5 MB each.
_MOST_IMAGES, _MOST_VALUES, _MOST_PREDICTIONS = 1500, 2_500_000, 150_000
_LEAST_IMAGES = 200  # with many runs; further runs are left out instead
_FIRST_OF_A_CELL = 5  # of the run with which the page opens, whatever the other runs need
_MOST_CLASSES = 256  # a class is one byte
_LARGEST_SIDE = 64  # larger images are reduced
_ANSWERS = 3  # classes with their probabilities for each image and run
_JPEG_BLOCK = 8  # images that start at a multiple of it do not mix with their neighbours
# Settings that change neither the test set nor the order of its images.
_SPLIT_KEYS = ("root", "batch_size", "val_size", "train_size", "split_seed", "normalize", "folds", "fold")

_Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBrowser:
    """The content of one browser: the matrix of the first run, the picture of all images, and data for the script.

    ``note`` says which images and runs are on the page and which are left out.
    """

    heat: Sequence[tuple[str, Sequence[Cell]]]
    sprite: str
    data: str
    note: str
    runs: Sequence[str]

    @property
    def style(self) -> Markup:
        """The rule that gives every tile of this page the picture, so that its data are on the page once."""
        return Markup("url({})").format(Markup(self.sprite))


def browsers_of(records: Sequence[ReportedRun]) -> tuple[dict[str, ImageBrowser], list[str]]:
    """Return a browser for each data set by its title, and one message for each data set that can't be read.

    Runs without predictions of the test set have no images. The best run by the monitored metric comes first.
    """
    groups: dict[str, list[ReportedRun]] = {}
    for record in rank_runs(records):
        if record.folder.test_predictions.exists():
            groups.setdefault(record.data_title, []).append(record)
    browsers, messages = {}, []
    for title, own in groups.items():
        try:
            browser = _browser(own)
        except DigitlabError as error:
            messages.append(f"test images: {error}")
        else:
            if browser is not None:
                browsers[title] = browser
    return browsers, messages


def _browser(records: Sequence[ReportedRun]) -> ImageBrowser | None:
    from digitlab.training.loading import load_data  # loads torch, which a page without images does not need

    data = load_data(records[0].folder)
    data.setup()
    images, labels = data.test_set.images.numpy(), data.test_set.labels.numpy()
    names = list(data.source.class_names)
    same = [record for record in records if _test_settings(record) == _test_settings(records[0])]
    read = {record.name: scores for record in same if (scores := _scores(record, len(labels), len(names))) is not None}
    if not read or len(names) > _MOST_CLASSES:
        return None
    # Tests can be limited to some mini-batches; then they share their first images.
    tested = min(len(scores) for scores in read.values())
    labels = labels[:tested]
    most = min(_MOST_IMAGES, _MOST_VALUES // int(np.prod(images.shape[1:])), tested)
    shown_runs = list(read)[: max(1, _MOST_PREDICTIONS // min(_LEAST_IMAGES, most))]
    scores = np.stack([read[name][:tested] for name in shown_runs])
    chosen = choose_images(scores, labels, most=max(1, min(most, _MOST_PREDICTIONS // len(shown_runs))))
    sprite, size, columns = _sprite(images[chosen])
    confusions = [_confusion(own, labels, len(names)) for own in scores]
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
    """Return the ascending positions of at most ``most`` images; ``scores`` is (R, N, K), ``labels`` (N,).

    Every cell of every run gets its first image, then its second, and so on: in cells of mistakes the image with the
    highest confidence comes first, in cells of correct predictions that with the lowest. The first images of each cell
    of run 0, which a page opens with, precede all others. Among equals, images that more runs get wrong come first.
    """
    best: npt.NDArray[np.int64] = np.full(len(labels), len(labels), np.int64)
    mistakes = np.zeros(len(labels), np.int64)
    first = np.zeros(len(labels), np.bool_)
    for number, own in enumerate(scores):
        predicted, confidence = own.argmax(1), own.max(1)
        wrong = predicted != labels
        cells = labels * own.shape[1] + predicted
        order = np.lexsort((np.where(wrong, -confidence, confidence), cells))
        starts = np.searchsorted(cells[order], cells[order])
        ranks = np.empty(len(labels), np.int64)
        ranks[order] = np.arange(len(labels)) - starts
        best = np.minimum(best, ranks)
        if number == 0:
            first = ranks < _FIRST_OF_A_CELL
        mistakes += wrong
    chosen: npt.NDArray[np.int64] = np.sort(np.lexsort((-mistakes, best, ~first))[:most])
    return chosen


def _confusion(scores: _Scores, labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    return (
        np.bincount(labels * classes + scores.argmax(1), minlength=classes**2)
        .reshape(classes, classes)
        .astype(np.int64)
    )


def _sparse(counts: npt.NDArray[np.int64]) -> list[int]:
    """Return true class, predicted class and count of each cell with images, one after another."""
    rows, columns = counts.nonzero()
    flat: list[int] = np.stack([rows, columns, counts[rows, columns]], axis=1).ravel().tolist()
    return flat


def _packed(scores: _Scores) -> str:
    """Return the most probable classes of (R, n, K) scores and their probabilities, one byte each, as base64.

    For each run and image: three classes, the most probable first, then three probabilities times 255.
    """
    classes = np.argsort(-scores, axis=2, kind="stable")[:, :, :_ANSWERS]
    values = np.take_along_axis(scores, classes, axis=2)
    packed = np.concatenate([classes, np.rint(255 * values.clip(0, 1))], axis=2).astype(np.uint8)
    if (missing := _ANSWERS - classes.shape[2]) > 0:  # two classes
        halves = np.split(packed, 2, axis=2)
        packed = np.concatenate([np.pad(half, ((0, 0), (0, 0), (0, missing))) for half in halves], axis=2)
    return base64.b64encode(packed.tobytes()).decode()


def _sprite(images: npt.NDArray[np.uint8]) -> tuple[str, list[int], int]:
    """Join images, uint8 (n, C, H, W), in one picture; return its address, (width, height) of a tile, the columns.

    Colour images become a JPEG, which takes a third of the space of a PNG.
    """
    pixels = images.transpose(0, 2, 3, 1)
    if (step := -(-max(pixels.shape[1:3]) // _LARGEST_SIDE)) > 1:
        pixels = pixels[:, ::step, ::step]
    colour = pixels.shape[3] == 3
    if not colour:
        pixels = pixels.astype(np.float32).mean(3, keepdims=True).round().astype(np.uint8)
    if colour:
        height, width = (-side % _JPEG_BLOCK for side in pixels.shape[1:3])
        pixels = np.pad(pixels, ((0, 0), (0, height), (0, width), (0, 0)), mode="edge")
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
