"""Finds images whose label is probably wrong: confident learning (Northcutt et al., 2021) on predictions of networks
that were not trained on the images. N is the number of images, K the number of classes.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError
from digitlab.figures.run_data import predict_split
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.loading import load_classifier, load_data

FOLDS, EPOCHS = 3, 5
_TRAINING = (
    f"trainer.max_epochs={EPOCHS}", "scheduler=one_cycle", "optimizer.lr=0.003", "trainer.progress_bar=false",
)  # fmt: skip
_SMALLEST_FOR_LENET = 16


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """Images with doubtful labels: ``indices`` int64 (n,), the likely labels ``suggested`` (n,), and ``margins`` (n,).

    The margin is the probability of the suggested minus that of the given class, averaged over the networks that did
    not train on the image. The largest comes first. ``joint`` int64 (K, K) counts the confident images by given and
    likely class.
    """

    indices: Tensor
    suggested: Tensor
    margins: Tensor
    joint: Tensor


def confident_learning(scores: Tensor, labels: Tensor) -> LabelErrors:
    """Find label errors from out-of-sample probabilities, float (N, K), and given labels, int64 (N,).

    A class is confident about an image if its probability is at least the mean probability of that class over the
    images that have its label. The likely class is the most probable of the confident ones. An image whose likely class
    differs from its label is an error.
    """
    classes = scores.shape[1]
    sums = torch.zeros(classes, dtype=scores.dtype).index_add_(0, labels, scores.gather(1, labels[:, None])[:, 0])
    counts = labels.bincount(minlength=classes)
    # A class without an image has no threshold, so nothing is likely to belong to it.
    thresholds = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    confident = scores >= thresholds
    likely = scores.masked_fill(~confident, -1).argmax(1)
    known = confident.any(1)
    joint = torch.zeros(classes, classes, dtype=torch.int64)
    joint.index_put_((labels[known], likely[known]), torch.ones(int(known.sum()), dtype=torch.int64), accumulate=True)
    wrong = (known & (likely != labels)).nonzero().flatten()
    margins = scores[wrong, likely[wrong]] - scores[wrong, labels[wrong]]
    order = margins.argsort(descending=True, stable=True)
    return LabelErrors(wrong[order], likely[wrong][order], margins[order], joint)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScores:
    """Probabilities of networks that did not train on the images: ``train`` (N, K) for all official training images,
    each from the network whose fold held it out, and ``test`` (n, K), the mean over the networks of all folds.

    ``accuracy`` is the share of the training images whose most probable class is their label; ``model`` names the
    network.
    """

    train: Tensor
    test: Tensor
    accuracy: float
    model: str


def held_out_scores(
    overrides: Sequence[str], *, image_shape: tuple[int, int, int], progress: Callable[[str], None]
) -> HeldOutScores:
    """Train one small network for each of three folds, as ``train.py`` would, and predict the images that it held out.

    ``overrides`` choose the data set and may choose another network or other settings of the training. Raises
    ``ConfigError`` if the data set has validation images of its own, because folds need the whole training set.
    """
    lenet = min(image_shape[1:]) >= _SMALLEST_FOR_LENET
    model = next((each for each in overrides if each.startswith("model=")), "model=lenet" if lenet else "model=mlp")
    fixed = [model, *_TRAINING, *overrides, "test=none", "early_stopping=null", f"data.folds={FOLDS}"]
    train_scores, test_scores, labels = None, [], None
    for fold in range(FOLDS):
        progress(f"training network {fold + 1} of {FOLDS} ({model}), which does not see a third of the images")
        config = compose([*fixed, f"data.fold={fold}"])
        with tempfile.TemporaryDirectory(prefix="digitlab-check-") as folder:
            run = RunFolder(Path(folder) / "run")
            train(config, folder=run.path, overrides=fixed)
            run.write_config(config, fixed)
            classifier, data = load_classifier(run, "last"), load_data(run)
        data.setup()
        if data.source.val_count is not None:
            raise ConfigError("--check", data.source.name, "has validation images of its own, so it has no folds")
        if train_scores is None:
            labels = data.train_set.labels
            train_scores = torch.zeros(len(labels), len(data.source.class_names))
        train_scores[data.val_indices] = predict_split(classifier, data, "val")[2].float()
        test_scores.append(predict_split(classifier, data, "test")[2].float())
    assert train_scores is not None
    assert labels is not None
    accuracy = float((train_scores.argmax(1) == labels).double().mean())
    return HeldOutScores(
        train=train_scores, test=torch.stack(test_scores).mean(0), accuracy=accuracy, model=model.partition("=")[2]
    )
