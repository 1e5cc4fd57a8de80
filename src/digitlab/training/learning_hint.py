"""Says at the end of a run if the network has hardly learned anything. Solo runs log it; members of a population, too.

A run whose loss is not finite fails with an error. But with ``optimizer.lr=1e30``, the loss can also stay finite and
huge, or the network can end with the same answer for all images, and the run counts as finished.
"""

import math
import shlex
from collections.abc import Sequence

import torch

from digitlab.config.place import train_command
from digitlab.optim.losses import Loss
from digitlab.results.writer import Row

# After fewer updates, even a good learning rate need not have had an effect.
_MIN_UPDATES = 100
# A trained network has a smaller loss than a guess. Overfitting can make the validation loss larger, but rarely both.
_HUGE = 10.0
# A share of correct answers within so many standard deviations of chance shows no learning.
_DEVIATIONS = 3.0


def guess_loss(loss: Loss, classes: int) -> float:
    """Return the loss of a network that outputs 0 for each class and image, if all K classes are equally frequent.

    For the cross-entropy this is ln K. It shows how large a loss of this kind is before any learning.
    """
    labels = torch.arange(classes)
    return float(loss(torch.zeros(classes, classes), loss.encode(labels, classes)))


def learning_hint(rows: Sequence[Row], *, guess_loss: float, classes: int) -> str | None:
    """Return one line if the rows of a finished run show that its network has hardly learned anything, else None.

    That is so if its losses in the last epoch are far above ``guess_loss``, if its mean recall over the K classes is
    that of chance, or if its training loss has not become smaller. Both the training and the validation images, if
    there are any, must show the first and the second.
    """
    if not rows or rows[-1]["step"] < _MIN_UPDATES:
        return None
    first, last = rows[0], rows[-1]
    losses = _values(last, "loss")
    recalls = _values(last, "balanced_accuracy")
    images = last["images_per_second"] * last["train_seconds"]
    chance = 1 / classes
    margin = _DEVIATIONS * math.sqrt(chance * (1 - chance) / max(images, 1))
    if min(losses) > _HUGE * guess_loss:
        found = f"the training loss ended at {losses[0]:.3g}, and a network that guesses has {guess_loss:.3g}"
        cause = "too large"
    elif max(recalls) <= chance + margin:
        found = f"the network only guesses: its accuracy on the training images ended at {last['train/accuracy']:.3f}"
        cause = "too large or much too small"
    elif len(rows) > 1 and last["train/loss"] >= first["train/loss"] and last["train/loss"] > guess_loss / 2:
        found = (
            f"the training loss did not fall: it was {first['train/loss']:.3g} and ended at {last['train/loss']:.3g}"
        )
        cause = "too large"
    else:
        return None
    test = shlex.join([*train_command(), "-m", "sweep=lr_range"])
    return f"{found}; optimizer.lr is probably {cause}: {test} with the other settings of this run tries 25 values"


def _values(row: Row, name: str) -> list[float]:
    """Return the value of a metric on the training images and, if there are any, on the validation images."""
    return [row[key] for key in (f"train/{name}", f"val/{name}") if key in row]
