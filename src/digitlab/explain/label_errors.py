"""Finds images whose label is probably wrong, by confident learning (Northcutt et al., 2021), for ``data_check``.

It needs held-out scores: probabilities from networks that did not train on the images. N is the number of images, K the
number of classes.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from digitlab.config.compose import compose
from digitlab.config.overrides import split_override
from digitlab.figures.run_data import predict_split
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.loading import load_classifier, load_data

# So many networks, and the epochs of each. With these, the check of MNIST takes about four minutes of processor time.
FOLDS, EPOCHS = 3, 5
# The defaults for the training of the networks, and the keys that an experiment sets.
_TRAINING = (f"trainer.max_epochs={EPOCHS}", "scheduler=one_cycle", "optimizer.lr=0.003")
_SET_BY_EXPERIMENT = ("model", "scheduler", "optimizer", "trainer.max_epochs")
_SMALLEST_FOR_LENET = 16  # pixels a side


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """Images with doubtful labels: ``indices`` int64 (n,), the likely labels ``suggested`` (n,), and ``margins`` (n,).

    The margin is the probability of the suggested minus that of the given class, averaged over the networks that did
    not train on the image. The largest comes first.
    """

    indices: Tensor
    suggested: Tensor
    margins: Tensor


def confident_learning(scores: Tensor, labels: Tensor) -> LabelErrors:
    """Find label errors from held-out scores, float (N, K) in [0, 1], and given labels, int64 (N,).

    A class is confident about an image if its probability is at least the mean probability of that class over the
    images that have its label. The likely class is the most probable of the confident ones. An image whose likely class
    differs from its label is an error.
    """
    classes = scores.shape[1]
    sums = torch.zeros(classes, dtype=scores.dtype).index_add_(0, labels, scores.gather(1, labels[:, None])[:, 0])
    counts = labels.bincount(minlength=classes)
    # A class without images has no mean. An infinite threshold makes it the likely class of no image.
    thresholds = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    confident = scores >= thresholds
    likely = scores.masked_fill(~confident, -1).argmax(1)
    wrong = (confident.any(1) & (likely != labels)).nonzero().flatten()
    margins = scores[wrong, likely[wrong]] - scores[wrong, labels[wrong]]
    order = margins.argsort(descending=True, stable=True)
    return LabelErrors(wrong[order], likely[wrong][order], margins[order])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScores:
    """Probabilities of networks that did not train on the images: ``train`` (N, K) for all official training images,
    each from the network whose fold held it out, and ``test`` (n, K), the mean over the networks of all folds.

    ``accuracy`` is the share of the training images whose most probable class is their label; ``model`` is the class of
    the networks, which trained for ``epochs`` epochs.
    """

    train: Tensor
    test: Tensor
    accuracy: float
    model: str
    epochs: int


def held_out_scores(
    overrides: Sequence[str], *, image_shape: tuple[int, int, int], progress: Callable[[str], None]
) -> HeldOutScores:
    """Train one small network for each of three folds, as ``train.py`` would, and predict the images that it held out.

    ``overrides`` choose the data set, which must not have validation images of its own, because folds need the whole
    training set. They may choose another network or other settings of the training. Raises ``ConfigError`` for a bad
    setting.
    """
    fits_lenet = min(image_shape[1:]) >= _SMALLEST_FOR_LENET
    user_keys = {split_override(override)[0] for override in overrides}
    defaults = ["model=lenet" if fits_lenet else "model=mlp", *_TRAINING]
    # Leave out the defaults that the user sets: by the key itself, by its group, or by an experiment.
    set_keys = {*user_keys, *_SET_BY_EXPERIMENT} if "experiment" in user_keys else user_keys
    remaining = [each for each in defaults if not {each.partition("=")[0], each.partition(".")[0]} & set_keys]
    shared = [
        *remaining, *overrides, "trainer.progress_bar=false", "test=none", "early_stopping=null", f"data.folds={FOLDS}",
    ]  # fmt: skip
    train_scores: Tensor | None = None
    test_scores: list[Tensor] = []
    for fold in range(FOLDS):
        progress(f"training network {fold + 1} of {FOLDS}, which does not see a third of the images")
        config = compose([*shared, f"data.fold={fold}"])
        with tempfile.TemporaryDirectory(prefix="digitlab-check-") as folder:
            run = RunFolder(Path(folder) / "run")
            train(config, folder=run.path, overrides=shared)
            # The command line writes the configuration of a run, ``train`` does not, and the loaders below read it.
            run.write_config(config, shared)
            classifier, data = load_classifier(run, "last"), load_data(run)
        data.setup()
        if train_scores is None:
            train_scores = torch.zeros(len(data.train_set.labels), len(data.source.class_names))
        train_scores[data.val_indices] = predict_split(classifier, data, "val")[2].float()
        test_scores.append(predict_split(classifier, data, "test")[2].float())
    assert train_scores is not None  # there is at least one fold
    accuracy = float((train_scores.argmax(1) == data.train_set.labels).double().mean())
    return HeldOutScores(
        train=train_scores, test=torch.stack(test_scores).mean(0), accuracy=accuracy,
        model=type(classifier.network).__name__, epochs=config.trainer.max_epochs,
    )  # fmt: skip
