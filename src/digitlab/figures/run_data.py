"""The data that a run's figures need, read from its folder: curves, network, and predictions on one split.

``figures.gallery`` draws figures from it; ``explain`` and the report use parts of it. The split is the test set if the
run was tested, otherwise the validation images, because drawing a figure must not be the first look at the test set. N
is the number of images, K the number of classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from digitlab.config.metrics import NAMES
from digitlab.core.errors import RunError
from digitlab.data.module import ImageData
from digitlab.data.source import ImageSet
from digitlab.engine.metrics import confusions
from digitlab.figures.batch_log import BatchLog, read_batch_log
from digitlab.figures.history import Curve, Curves
from digitlab.models.layers import evaluating
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.events import LOSS_TAG, curves_folder
from digitlab.results.folder import RunFolder
from digitlab.results.history import read_history
from digitlab.training.classifier import Classifier
from digitlab.training.loading import load_classifier, load_data, require_fit

Split = Literal["test", "val"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """Everything that the figures of one run show.

    ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,) and ``scores`` float (N, K) in [0, 1] belong to ``split``; N is
    0 if the run has no validation images and was not tested. ``epochs`` and ``steps`` hold the curves against epochs
    and against updates. ``best_epoch`` and ``best_step`` are the position of the best checkpoint, or None if no
    validation chose one. ``train_set`` holds the official training images, ``train_indices`` the training split.
    """

    title: str
    split: Split
    class_names: Sequence[str]
    network: nn.Module
    images: Tensor
    labels: Tensor
    scores: Tensor
    train_set: ImageSet
    train_indices: Tensor
    epochs: Curves
    steps: Curves
    best_epoch: int | None
    best_step: int | None
    batch_log: BatchLog | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train_set.images.shape[1:]
        return channels, height, width

    @property
    def confusion(self) -> Tensor:
        """The confusion matrix on ``split``, int64 (K, K): true class by predicted class."""
        # ``confusions`` takes the scores of several networks.
        return confusions(self.scores.unsqueeze(0), self.labels.unsqueeze(0))[0]


def read_run_data(run: RunFolder) -> RunData:
    """Read the data of a run's figures, with the checkpoint that the run tested.

    Raises ``ConfigError`` if the folder is not a run folder, ``RunError`` if no epoch is finished or a checkpoint is
    damaged, and ``DataError`` if the data set is missing.
    """
    checkpoint = run.read_tested_checkpoint()
    rows = read_rows(run)
    classifier = load_classifier(run, checkpoint)
    data = load_data(run)
    trained_on = classifier.facts.name
    if trained_on != data.source.name:
        raise RunError(
            f"{run.checkpoint(checkpoint)}: was trained on {trained_on}, but the run's data set is {data.source.name}"
        )
    require_fit(classifier, data)
    data.setup()
    # The best checkpoint was saved right after the best validation, so that is the last one in its history.
    best = read_checkpoint(run.best)["history"][-1]
    return collect_run_data(
        classifier, data, split="test" if run.is_tested else "val",
        best=(best["epoch"], best["step"]), batch_log=read_batch_log(run),
        epochs=curves(rows, against="epoch"), steps=event_curves(run),
    )  # fmt: skip


def read_rows(run: RunFolder) -> list[dict[str, float]]:
    """Return the rows of ``metrics.csv``, one per epoch. Raises ``RunError`` if no epoch is finished, or for damage."""
    if missing := [path for path in (run.metrics, run.best) if not path.is_file()]:
        if run.last.is_file() or run.result.is_file():
            text = f"there is no such file: no epoch is finished, or the file was deleted; resume={run.path} continues"
            raise RunError(f"{missing[0]}: {text}")
        raise RunError(f"{run.path}: no epoch is finished, so there is nothing to draw")
    rows = [row.columns for row in read_history(run)]
    if not rows:
        raise RunError(f"{run.metrics}: has no epoch, so there is nothing to draw; resume={run.path} writes it again")
    return rows


def collect_run_data(
    classifier: Classifier,
    data: ImageData,
    *,
    split: Split,
    epochs: Curves,
    steps: Curves,
    best: tuple[int, int] | None,
    batch_log: BatchLog | None = None,
) -> RunData:
    """Evaluate ``classifier`` on ``split`` and collect the data of the figures; ``best`` is (epoch, step).

    Without validation images no epoch was chosen as the best, so ``best`` is ignored.
    """
    best = best if len(data.val_indices) else None
    images, labels, scores = predict_split(classifier, data, split)
    network = classifier.evaluated_network  # the one with averaged weights, if the run averages them
    facts = classifier.facts  # the names and the shape that the checkpoint stores about the data set
    return RunData(
        title=f"{facts.title}, {type(network).__name__}", split=split, class_names=facts.class_names, network=network,
        images=images, labels=labels, scores=scores,
        train_set=data.train_set, train_indices=data.train_indices, epochs=epochs, steps=steps,
        best_epoch=best[0] if best else None, best_step=best[1] if best else None,
        batch_log=batch_log,
    )  # fmt: skip


@torch.no_grad()
def predict_split(classifier: Classifier, data: ImageData, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (N, C, H, W), labels (N,) and scores (N, K) of a split, on the CPU."""
    batches = list(data.evaluation_loader(split))
    with evaluating(classifier):
        scores = [classifier.loss.scores(classifier(batch.images)).cpu() for batch in batches]
    if not batches:
        empty = data.train_set.images[:0].cpu()
        return empty, torch.zeros(0, dtype=torch.int64), torch.zeros(0, len(classifier.facts.class_names))
    images = torch.cat([batch.images.cpu() for batch in batches])
    labels = torch.cat([batch.labels.cpu() for batch in batches])
    return images, labels, torch.cat(scores)


def curves(rows: Sequence[Mapping[str, float]], *, against: Literal["epoch", "step"]) -> Curves:
    """Turn the rows of ``metrics.csv`` into one curve per metric, against the epoch or the number of updates."""
    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    return {name: [(row[against], row[name]) for row in rows if name in row] for name in names}


def event_curves(run: RunFolder) -> Curves:
    """Read the curves against updates from the TensorBoard events: validations and losses of single mini-batches."""
    curves_by_name: dict[str, Curve] = {}
    for split in ("train", "val"):
        # The size 0 means all scalars; by default, TensorBoard keeps a sample of them.
        events = EventAccumulator(str(curves_folder(run.path, split)), size_guidance={"scalars": 0})
        events.Reload()
        for tag in sorted({*NAMES, LOSS_TAG} & {*events.Tags()["scalars"]}):
            # A resumed run can write a step again, into a second file. The later entry counts.
            oldest_first = sorted(events.Scalars(tag), key=lambda event: event.wall_time)
            curves_by_name[f"{split}/{tag}"] = sorted({event.step: event.value for event in oldest_first}.items())
    # In figures against iterations, the loss of single mini-batches is the training loss.
    if f"train/{LOSS_TAG}" in curves_by_name:
        curves_by_name["train/loss"] = curves_by_name.pop(f"train/{LOSS_TAG}")
    return curves_by_name
