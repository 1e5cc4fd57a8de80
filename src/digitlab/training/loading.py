"""Loads a finished run: its network with the weights of a checkpoint, and its data set.

``digitlab.load`` calls ``load``. The ``digitlab`` command, the Python class ``Run``, figures, explanations and exports
use the other functions. Shapes: N images, C channels, H rows, W columns, K classes.
"""

from pathlib import Path

import torch
from omegaconf import DictConfig

from digitlab.config.compose import build, compose, plain, register_resolvers
from digitlab.core.errors import ConfigError, RunError
from digitlab.data.module import ImageData
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.checkpoint_name import CheckpointName
from digitlab.results.folder import RunFolder
from digitlab.results.run_hints import open_run
from digitlab.training.classifier import Classifier
from digitlab.training.settings import Execution


def load(folder: str | Path, *, checkpoint: CheckpointName = "best") -> tuple[Classifier, ImageData]:
    """Return the classifier of a run, in eval mode, and its data set with the run's split, both on the CPU.

    ``classifier(images)`` takes uint8 images (N, C, H, W), such as ``data.test_set.images``, and returns logits (N, K).
    Raises ``ConfigError`` if ``folder`` is not a run folder, ``RunError`` for a missing or damaged checkpoint, and
    ``DataError`` if the data set can't be obtained.
    """
    run = open_run(folder)
    classifier = load_classifier(run, checkpoint)
    data = load_data(run)
    data.setup()
    return classifier, data


def load_classifier(run: RunFolder, checkpoint: CheckpointName = "best") -> Classifier:
    """Return the classifier of a checkpoint, in eval mode on the CPU, in the precision in which it was trained.

    Raises ``RunError`` if the checkpoint is missing or does not fit the network, ``ConfigError`` if it names a network
    of a package that is not allowed.
    """
    path, other = run.checkpoint(checkpoint), run.checkpoint("best" if checkpoint == "last" else "last")
    if not path.exists():
        hint = f"{other.name} is there: choose the checkpoint {other.stem}"
        hint = hint if other.exists() else "no epoch is finished, or the file was deleted"
        raise RunError(f"{path}: there is no such checkpoint: {hint}")
    try:
        content = read_checkpoint(path)
    except RunError as error:
        hint = f"; the other checkpoint is {other.stem}" if other.is_file() else ""
        raise RunError(f"{error}{hint}") from error
    try:
        precision = run.read_config().trainer.precision
        # The network is built with random weights, which the checkpoint then replaces. These draws must not change the
        # random numbers of the user's program.
        with torch.random.fork_rng(devices=[]):
            classifier = Classifier(**content["hyper_parameters"], execution=Execution(precision=precision))
        classifier.load_state_dict(content["state_dict"])
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path}: does not fit the network that its run describes: {reason}") from error
    return classifier.eval()


def load_data(run: RunFolder, name: str | None = None) -> ImageData:
    """Return the data set of a run, downloaded but not read yet; with ``name``, the data set of that name instead."""
    register_resolvers()
    config: DictConfig = run.read_config()
    if name is not None:
        root = plain(config.data, "data")["root"]
        config = compose([f"data={name}"])
        config.data.root = root
    data = build(plain(config.data, "data"), "data", ImageData)
    data.prepare_data()
    return data


def require_fit(classifier: Classifier, data: ImageData) -> None:
    """Raise ``ConfigError`` unless ``data`` has the image shape and the number of classes of ``classifier``.

    If ``data`` is the data set of the run, it must also have the same class names. Those of a data set that the user
    made, a folder of pictures for each class, may have changed since the run.
    """
    facts, source = classifier.facts, data.source
    shape, classes = tuple(facts.image_shape), len(facts.class_names)
    data_shape, data_classes = source.image_shape, len(source.class_names)
    if (data_shape, data_classes) != (shape, classes):
        raise ConfigError(
            "data", source.name,
            f"has {data_classes} classes of images {data_shape}; the run was trained on {classes} classes of images "
            f"{shape}",
        )  # fmt: skip
    names = tuple(facts.class_names)
    if facts.name == source.name and names != source.class_names:
        pairs = zip(names, source.class_names, strict=True)
        different = next(name for expected, name in pairs if name != expected)
        raise ConfigError("data", source.name, f"has other classes than the run was trained on, such as {different}")
