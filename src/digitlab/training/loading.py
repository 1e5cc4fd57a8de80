"""A finished run, read back: its network with the weights of a checkpoint, and its data set.

``digitlab.load`` in a notebook is ``load`` here; the ``digitlab`` command uses the parts.
"""

from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from digitlab.config.compose import build, compose, plain, register_resolvers
from digitlab.core.errors import ConfigError, RunError
from digitlab.data.module import ImageData
from digitlab.engine.device import PRECISIONS
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier

Which = Literal["best", "last"]


def load(folder: str | Path, *, checkpoint: Which = "best") -> tuple[Classifier, ImageData]:
    """The classifier of a run, in eval mode on the CPU, and its data set, read and split as it was, on the CPU.

    ``model(images)`` takes uint8 images (N, C, H, W) as ``data.test_set.images`` holds them, and returns logits (N, K).
    Raises ``ConfigError`` where ``folder`` is no run folder, ``RunError`` for a missing or damaged checkpoint, and
    ``DataError`` where the data set is not to be had.
    """
    run = open_run(folder)
    classifier = load_classifier(run, checkpoint)
    data = load_data(run)
    data.setup()
    return classifier, data


def open_run(folder: str | Path) -> RunFolder:
    """The run in ``folder``; ``ConfigError`` where it is none."""
    run = RunFolder(Path(folder).expanduser().resolve())
    try:
        run.read_config()
    except ConfigError as error:
        reason = error.allowed if run.path.is_dir() else "there is no such folder"
        raise ConfigError("RUN_FOLDER", folder, reason) from error
    return run


def load_classifier(run: RunFolder, checkpoint: Which = "best") -> Classifier:
    """The classifier of a checkpoint, in eval mode on the CPU, in the precision that it was trained in.

    Raises ``RunError`` where there is no checkpoint, or none that fits, ``ConfigError`` where it names a network of a
    package that is not allowed.
    """
    path = run.best if checkpoint == "best" else run.last
    content = read_checkpoint(path)
    try:
        classifier = Classifier(**content["hyper_parameters"])
        classifier.use_precision(PRECISIONS[str(run.read_config().trainer.precision)])
        classifier.load_state_dict(content["state_dict"])
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path}: does not fit the network that its run describes: {reason}") from error
    return classifier.eval()


def load_data(run: RunFolder, name: str | None = None) -> ImageData:
    """The data set of a run with its files in place, not yet read; with ``name``, that of ``conf/data/`` instead."""
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
    """Raise ``ConfigError`` unless ``classifier`` can be tested on ``data``: the same image shape, as many classes."""
    facts, source = classifier.facts, data.source
    expected = tuple(facts.image_shape), len(facts.class_names)
    if (source.image_shape, len(source.class_names)) != expected:
        (shape, classes), own = expected, (source.image_shape, len(source.class_names))
        raise ConfigError(
            "data", source.name,
            f"has {own[1]} classes of images {own[0]}; the run was trained on {classes} classes of images {shape}",
        )  # fmt: skip
