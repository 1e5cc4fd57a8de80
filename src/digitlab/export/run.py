"""Exports the network of a run to a file. Before writing, it checks on test images that the export agrees with the run.

``digitlab export`` and ``Run.export`` call it. Shapes: N images, C channels, H rows, W columns, K classes.
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from torch import Tensor

from digitlab.config.compose import plain
from digitlab.core.errors import ConfigError
from digitlab.core.extras import require_packages
from digitlab.core.files import require_writable, write_atomically
from digitlab.export.check import Agreement, compare, run_probabilities, some_images
from digitlab.export.formats import PACKAGES, SUFFIXES, Format, onnx_bytes, program_bytes, read_back, weight_bytes
from digitlab.export.network import ExportedNetwork, Pixels, trace
from digitlab.results.checkpoint_name import CheckpointName
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier
from digitlab.training.loading import load_classifier, load_data

# The ends of files of other formats, which no export writes.
_OTHER_SUFFIXES = (".pt", ".pth", ".ckpt", ".pb", ".h5", ".tflite")


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported file, how well it agrees with the run, and a note if the run computed in another precision."""

    path: Path
    agreement: Agreement
    note: str | None


def export_run(
    run: RunFolder, to: Format, out: Path | None = None, *, checkpoint: CheckpointName = "best",
    pixels: Pixels = "float32", force: bool = False,
) -> Exported:  # fmt: skip
    """Write the network of a run to ``out``. The default is a file in the run folder, for example ``network.onnx``.

    ONNX models and PyTorch programs take any number of images (N, C, H, W) and return probabilities (N, K). ``pixels``
    chooses the dtype of the images: float32 in [0, 1], or uint8. A safetensors file holds only the weights. If the
    export does not agree with the run on test images, no file is written.

    Raises:
        ConfigError: a package is missing, the file exists and ``force`` is off, or the run deskews its images.
        RunError: the network cannot be exported, or the export computes other probabilities.
    """
    for option, value, allowed in (("--to", to, get_args(Format)), ("--input", pixels, get_args(Pixels))):
        if value not in allowed:  # the command line has checked it before, Python users may mistype it
            raise ConfigError(option, value, f"must be one of {', '.join(allowed)}")
    require_packages("export", *PACKAGES[to], key="--to", value=to)
    if to == "safetensors" and pixels != "float32":
        raise ConfigError(
            "--input", pixels, "has no effect with --to safetensors, which writes only weights: leave it out"
        )
    out = run.path / f"network{SUFFIXES[to]}" if out is None else out
    if out.suffix in (*SUFFIXES.values(), *_OTHER_SUFFIXES) and out.suffix != SUFFIXES[to]:
        raise ConfigError("--out", out, f"must end in {SUFFIXES[to]}, because --to {to} writes such a file")
    require_writable(out, option="--out", force=force)
    classifier = load_for_export(run, checkpoint)
    network = ExportedNetwork(classifier)
    metadata = describe(run, classifier, checkpoint)
    if to == "safetensors":
        content = weight_bytes(network, metadata | _preparation(classifier))
    else:
        program = trace(network, classifier.facts.shape, pixels=pixels)
        metadata |= {"input": "uint8" if pixels == "uint8" else "float32 in [0, 1]"}
        if to == "onnx":
            content = onnx_bytes(program, metadata, outputs=["probabilities"])
        else:
            content = program_bytes(program, metadata)
    # Compute with the bytes that will be written, so that mistakes of the format are found, too.
    images = some_images(test_images(run)[0])
    expected = run_probabilities(classifier, images)
    inputs = images if pixels == "uint8" else images / 255
    agreement = compare(expected, read_back(to, content, network), inputs)
    write_atomically(out, content)
    return Exported(out, agreement, precision_note(classifier))


def load_for_export(run: RunFolder, checkpoint: CheckpointName) -> Classifier:
    """Return the classifier of a run. Raises ``ConfigError`` if the run deskews its images.

    Deskewing happens before the network, so the exported network would not contain it.
    """
    if run.read_deskew():
        raise ConfigError(
            "RUN_FOLDER", run.path,
            "was trained with data.deskew=true, and deskewing can't be a part of the exported network, because it "
            "rounds pixels: train a run with data.deskew=false",
        )  # fmt: skip
    return load_classifier(run, checkpoint)


def describe(run: RunFolder, classifier: Classifier, checkpoint: CheckpointName) -> dict[str, str]:
    """Return the metadata of an export. All values are strings, because the formats store only strings.

    Lists and settings are encoded as JSON.
    """
    facts = classifier.facts
    metadata = {
        "class_names": json.dumps(facts.class_names), "image_shape": json.dumps(facts.image_shape),
        "data": facts.name, "model": json.dumps(_model_settings(run)), "checkpoint": checkpoint,
        "digitlab": version("digitlab"),
    }  # fmt: skip
    return metadata if facts.unknown_class is None else metadata | {"unknown_class": facts.unknown_class}


def _model_settings(run: RunFolder) -> dict[str, object]:
    """Return the node ``model`` of the configuration as a plain dict."""
    return {str(key): value for key, value in plain(run.read_config().model, "model").items()}


def _preparation(classifier: Classifier) -> dict[str, str]:
    """Return the metadata that only a file of weights needs, because its user computes these steps without digitlab.

    ``mean`` and ``std`` normalise the images. ``output`` says how outputs become probabilities, for example softmax.
    """
    output = getattr(classifier.loss, "output", "softmax")
    mean, std = classifier.facts.mean, classifier.facts.std
    return {"mean": json.dumps(mean), "std": json.dumps(std), "output": output}


def test_images(run: RunFolder) -> tuple[Tensor, Tensor]:
    """Return the official test images of a run, uint8 (N, C, H, W), and their labels, int64 (N,)."""
    data = load_data(run)
    images = data.source.read(data.root)[1]
    return images.images, images.labels


def precision_note(classifier: Classifier) -> str | None:
    """Return a sentence for users if the run computes in bf16, which exports do not use, otherwise None."""
    if classifier.execution.autocast_dtype is None:
        return None
    return "the run computes in bf16; the export and its check compute in float32, so metrics can differ a little"
