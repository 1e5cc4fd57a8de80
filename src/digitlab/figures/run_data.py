"""What pictures of a run are made from, read from its folder: curves, network, and what it says of one split.

N images, C, H, W, K classes. The split is the test set where the run has met it, else validation: drawing a picture is
no reason to meet the test set.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from digitlab.core.errors import RunError
from digitlab.data.module import ImageData
from digitlab.data.source import ImageSet
from digitlab.engine.metrics import confusions
from digitlab.figures.batch_log import Iterations, read_iterations
from digitlab.figures.history import Curve, Curves
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier
from digitlab.training.loading import load_classifier, load_data

Split = Literal["test", "val"]

# Events of single mini-batches, which are as noisy as many: the curve of the training loss against iterations.
_LOSS_STEP = "loss_step"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """All that a run's pictures show.

    ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,) and ``scores`` float (N, K), confidences in [0, 1], are of the
    ``split``; without validation images N may be 0. ``epochs`` and ``steps`` are the curves against either;
    ``best_epoch`` and ``best_step`` say where the checkpoint with the best validation was taken.
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
    batch_size: int
    iterations: Iterations | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train_set.images.shape[1:]
        return channels, height, width

    @property
    def confusion(self) -> Tensor:
        """int64 (K, K), true by predicted class, on ``split``."""
        return confusions(self.scores.unsqueeze(0), self.labels.unsqueeze(0))[0]


def read_run_data(run: RunFolder) -> RunData:
    """The material of a run with at least one finished epoch, of the checkpoint that its test was made on.

    Raises ``ConfigError`` where the folder is no run folder, ``RunError`` where no epoch is finished or a checkpoint is
    damaged, and ``DataError`` where the data set is not to be had.
    """
    config = run.read_config()
    rows = read_rows(run)
    tested = run.confusion.exists()
    which: Literal["best", "last"] = "last" if config.test == "last" else "best"
    classifier = load_classifier(run, which)
    data = load_data(run)
    trained_on = classifier.facts.name
    if trained_on != data.source.name:
        path = run.last if which == "last" else run.best
        raise RunError(f"{path}: was trained on {trained_on}, and the run is one on {data.source.name}")
    data.setup()
    best = read_checkpoint(run.best)["history"][-1]
    return material_of(
        classifier, data, split="test" if tested else "val",
        best=(best["epoch"], best["step"]), iterations=read_iterations(run),
        epochs=curves(rows, against="epoch"), steps=event_curves(run),
    )  # fmt: skip


def read_rows(run: RunFolder) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``; raises ``RunError`` where there is none, as no epoch is finished."""
    if not run.metrics.exists() or not run.best.exists():
        raise RunError(f"{run.path}: has no finished epoch: there is nothing to draw")
    with run.metrics.open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def material_of(
    classifier: Classifier,
    data: ImageData,
    *,
    split: Split,
    epochs: Curves,
    steps: Curves,
    best: tuple[int, int] | None,
    iterations: Iterations | None = None,
) -> RunData:
    """The material of a network as it stands, on the CPU or not; ``best`` is (epoch, step).

    Without validation images nothing was chosen, so there is no best.
    """
    best = best if len(data.val_indices) else None
    images, labels, scores = predict_split(classifier, data, split)
    network = classifier.network if classifier.average is None else classifier.average
    facts = classifier.facts
    return RunData(
        title=f"{facts.title}, {type(network).__name__}", split=split, class_names=facts.class_names, network=network,
        images=images, labels=labels, scores=scores,
        train_set=data.train_set, train_indices=data.train_indices, epochs=epochs, steps=steps,
        best_epoch=best[0] if best else None, best_step=best[1] if best else None,
        batch_size=data.batch_size, iterations=iterations,
    )  # fmt: skip


@torch.no_grad()
def predict_split(classifier: Classifier, data: ImageData, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, C, H, W), labels (N,) and scores (N, K) of a split, on the CPU; ``classifier`` stays in its mode."""
    training = classifier.training
    classifier.eval()
    batches = list(data.evaluation_loader(split))
    scores = [classifier.loss.scores(classifier(batch.images)).cpu() for batch in batches]
    classifier.train(training)
    if not batches:
        empty = data.train_set.images[:0].cpu()
        return empty, torch.zeros(0, dtype=torch.int64), torch.zeros(0, len(classifier.facts.class_names))
    return torch.cat([b.images.cpu() for b in batches]), torch.cat([b.labels.cpu() for b in batches]), torch.cat(scores)


def curves(rows: Sequence[Mapping[str, float]], *, against: Literal["epoch", "step"]) -> Curves:
    """The columns of ``metrics.csv`` as curves against the epoch or the number of mini-batches."""
    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    return {name: [(row[against], row[name]) for row in rows if name in row] for name in names}


def event_curves(run: RunFolder) -> Curves:
    """The curves against mini-batches, as TensorBoard has them: each validation, and losses of single mini-batches."""
    found: dict[str, Curve] = {}
    for split in ("train", "val"):
        events = EventAccumulator(str(run.path / split), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            # Where an earlier run has left events in the folder, the later ones count.
            written = sorted(events.Scalars(tag), key=lambda event: event.wall_time)
            found[f"{split}/{tag}"] = sorted({event.step: event.value for event in written}.items())
    if f"train/{_LOSS_STEP}" in found:
        found["train/loss"] = found.pop(f"train/{_LOSS_STEP}")
    return found
