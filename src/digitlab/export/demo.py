"""Writes an HTML file in which networks classify the user's drawings in the browser. ``digitlab demo`` calls it.

The file contains ONNX Runtime Web, the networks and some test images, so it works without internet access. The runtime
is in ``web/``, where ``tools/vendor_onnxruntime_web.py`` put it. N images, C channels, H rows, W columns.
"""

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from digitlab.core.errors import ConfigError
from digitlab.core.extras import require_packages
from digitlab.core.files import require_writable, write_atomically
from digitlab.core.html_page import security_policy, template_environment
from digitlab.export.check import Agreement, compare, run_probabilities, some_images
from digitlab.export.formats import PACKAGES, onnx_bytes, read_back
from digitlab.export.network import ExportedNetwork, trace
from digitlab.export.run import describe, load_for_export, precision_note, test_images
from digitlab.results.checkpoint_name import CheckpointName
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier

# Most mail servers accept a file of this size, so a teacher can send the page to a class.
_MOST_BYTES = 10_000_000
_TEST_IMAGES = 60
_SCRIPTS = ("resize.js", "picture.js", "runtime.js", "drawing.js", "answers.js", "demo.js")


@dataclass(frozen=True, slots=True)
class DemoNetwork:
    """A network of the page: its ONNX model, what the page says about it, and how well it agrees with its run.

    ``facts`` is what the scripts of the page read. ``note`` is a remark about the precision for the user, or None.
    """

    name: str
    classifier: Classifier
    facts: dict[str, Any]
    model: bytes
    agreement: Agreement
    note: str | None


def write_demo(
    runs: Sequence[RunFolder], out: Path, *, checkpoint: CheckpointName = "best", force: bool = False
) -> list[DemoNetwork]:
    """Write the page with the networks of all runs to ``out``; the test images are those of the first run.

    Raises:
        ConfigError: a package is missing, the runs prepare pictures in different ways, ``out`` exists and ``force`` is
            off, or the page would be larger than 10 MB.
        RunError: a network cannot be exported.
    """
    require_packages("export", *PACKAGES["onnx"], value="digitlab demo")
    require_writable(out, option="--out", force=force)
    classifiers = [load_for_export(run, checkpoint) for run in runs]
    _require_same_images(runs, classifiers)
    names = _names(runs)
    networks = [
        _network(run, classifier, name, checkpoint)
        for run, classifier, name in zip(runs, classifiers, names, strict=True)
    ]
    page = demo_page(networks, *_random_images(*test_images(runs[0]))).encode()
    if len(page) > _MOST_BYTES:
        sizes = ", ".join(f"{each.name} {len(each.model) / 1e6:.1f} MB" for each in networks)
        limit = f"{_MOST_BYTES / 1e6:.0f} MB"
        raise ConfigError(
            "RUN_FOLDER", runs[0].path,
            f"the page would have {len(page) / 1e6:.1f} MB, and at most {limit} are allowed: choose smaller or fewer "
            f"networks ({sizes})",
        )  # fmt: skip
    write_atomically(out, page)
    return networks


def _require_same_images(runs: Sequence[RunFolder], classifiers: Sequence[Classifier]) -> None:
    """Raise ``ConfigError`` unless all networks need the same preparation of a picture."""
    preparations = [(each.facts.shape, each.facts.margin_pixels) for each in classifiers]
    for run, preparation in zip(runs, preparations, strict=True):
        if preparation != preparations[0]:
            raise ConfigError(
                "RUN_FOLDER", run.path,
                f"has images {preparation[0]} that are prepared in another way than the images {preparations[0][0]} of "
                f"{runs[0].path}: write a page for each run, because the networks of one page must see the same image",
            )  # fmt: skip


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Return the model of each run, with the name of the folder where several runs have the same model."""
    models = [_choice(run, "model") for run in runs]
    return [
        f"{model} ({run.path.name})" if models.count(model) > 1 else model
        for run, model in zip(runs, models, strict=True)
    ]


def _choice(run: RunFolder, group: str) -> str:
    """Return the option that the run chose in a config group, or the name of its folder if that is unknown."""
    try:
        return str(run.read_choices()[group])
    except (OSError, KeyError):
        return run.path.name


def _network(run: RunFolder, classifier: Classifier, name: str, checkpoint: CheckpointName) -> DemoNetwork:
    """Export the network of a run as ONNX, and compare the export with the run."""
    network = ExportedNetwork(classifier, hidden=True)
    program = trace(network, classifier.facts.shape, pixels="uint8")
    outputs = ["probabilities"] if network.last_layer is None else ["probabilities", "units"]
    model = onnx_bytes(program, describe(run, classifier, checkpoint), outputs=outputs)
    images = some_images(test_images(run)[0])
    agreement = compare(run_probabilities(classifier, images), read_back("onnx", model, network), images)
    facts = {
        "name": name, "class_names": classifier.facts.class_names, "note": _note(run, classifier),
        "units": None if network.last_layer is None else network.last_layer.in_features,
    }  # fmt: skip
    return DemoNetwork(name, classifier, facts, model, agreement, precision_note(classifier))


def _note(run: RunFolder, classifier: Classifier) -> str:
    """Return what the page says about a network: parameters, data set and test accuracy."""
    parameters = sum(each.numel() for each in classifier.network.parameters())
    note = f"{parameters:,} parameters, trained on {classifier.facts.title}"
    try:
        metrics = run.read_result()["metrics"]
    except (OSError, ValueError, KeyError):
        return note
    accuracy = metrics.get("test/accuracy")
    return note if accuracy is None else f"{note}; {100 * accuracy:.2f} % of the test images right"


def _random_images(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``_TEST_IMAGES`` of the images and labels. The seed is fixed, so the same run gives the same images."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:_TEST_IMAGES]
    return images[chosen], labels[chosen]


def demo_page(networks: Sequence[DemoNetwork], images: Tensor, labels: Tensor) -> str:
    """Render the page with these test images, uint8 (N, C, H, W), and their labels, int64 (N,)."""
    first = networks[0].classifier.facts
    # A user can draw images that show one figure on black, such as digits, but not photographs.
    pen = first.margin_pixels is not None and first.shape[0] == 1
    runtime = json.loads(_asset("web", "versions.json"))
    # What the scripts of the page read: the facts as JSON, the blobs as base64.
    facts = {
        "image_shape": first.shape, "margin_pixels": first.margin_pixels, "class_names": first.class_names, "pen": pen,
        "networks": [each.facts for each in networks], "test_labels": labels.tolist(),
        "runtime_version": runtime["onnxruntime-web"],
    }  # fmt: skip
    blobs = {
        "runtime-script": _in_base64(_asset("web", "ort.wasm.bundle.min.mjs.gz")),
        "runtime-wasm": _in_base64(_asset("web", "ort-wasm-simd-threaded.wasm.gz")),
        "test-images": _in_base64(_compressed(images.contiguous().numpy().tobytes())),
    } | {f"network-{number}-model": _in_base64(_compressed(each.model)) for number, each in enumerate(networks)}
    environment = template_environment("digitlab.export", "page")
    longest = max(len(name) for each in networks for name in each.classifier.facts.class_names)
    style = environment.get_template("demo.css").render(
        width=first.shape[2], height=first.shape[1], name_width=min(longest, 12)
    )
    script = '"use strict";\n' + "\n".join(_asset("page", name).decode() for name in _SCRIPTS)
    # The runtime is loaded as a script from a blob, and it runs WebAssembly. The policy must allow both.
    policy = security_policy(script, images="data: blob:", other_scripts="'wasm-unsafe-eval' blob:")
    title = "Draw, and a network answers" if pen else "Show a picture, and a network answers"
    return environment.get_template("demo.html").render(
        title=f"{title}: {first.title}", facts=facts, blobs=blobs, style=Markup(style), script=Markup(script),
        policy=policy, licence=_asset("web", "LICENSE").decode(),
    )  # fmt: skip


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def _in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@cache
def _asset(folder: str, name: str) -> bytes:
    return (files("digitlab.export") / folder / name).read_bytes()
