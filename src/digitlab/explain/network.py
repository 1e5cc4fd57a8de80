"""Loads a finished run with everything that explanations need: its network, its layers, and its images.

``digitlab explain`` calls it, and the other modules of this package take the loaded run. Shapes: N images, C channels,
H rows, W columns, K classes, D units in the last hidden layer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from digitlab.core.errors import RunError
from digitlab.data.module import ImageData
from digitlab.figures.layers import layers_of
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier
from digitlab.training.loading import load_classifier, load_data, require_fit

# This many images pass through the network at once, so that a large set of images does not need too much memory.
_BATCH_SIZE = 200


class PixelNetwork(nn.Module):
    """The network of a classifier as a function from pixels to logits (N, K).

    Pixels are uint8, or float (N, C, H, W) in [0, 1], which can have gradients. The network has the averaged weights if
    there are any. It does not use test-time augmentation, because an explanation belongs to the image itself, not to
    the mean over changed copies of it.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.normalise = classifier.normalise
        self.network = classifier.evaluated_network
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalise(pixels))
        return logits


def as_floats(pixels: Tensor) -> Tensor:
    """Return pixels as floats in [0, 1]; uint8 pixels are divided by 255."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRun:
    """A finished run with its tested checkpoint and its data.

    ``split`` says which images are explained: the test set if the run was tested, otherwise the validation set. An
    explanation must not show the test set before the run is tested on it.
    """

    folder: RunFolder
    classifier: Classifier
    network: PixelNetwork
    data: ImageData
    split: Literal["test", "val"]

    @property
    def class_names(self) -> list[str]:
        return self.classifier.facts.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.classifier.facts.shape

    @property
    def title(self) -> str:
        """The data set and the class of the network, for example ``MNIST, LeNet``."""
        return f"{self.classifier.facts.title}, {type(self.network.network).__name__}"

    @property
    def convolutions(self) -> dict[str, nn.Conv2d]:
        """The convolutions by name, in the order in which the network calls them."""
        return _layers_of_type(self, nn.Conv2d)

    @property
    def last_convolution(self) -> nn.Conv2d | None:
        """The last convolution whose output has more than one pixel; None if there is none.

        An output of one pixel can't show which part of the image matters.
        """
        shapes = {layer.name: layer.shape for layer in layers_of(self.network.network, self.image_shape)}
        spatial = [layer for name, layer in self.convolutions.items() if math.prod(shapes[name][1:]) > 1]
        return spatial[-1] if spatial else None

    @property
    def last_dense(self) -> nn.Linear:
        """The last dense layer, whose input is the last hidden layer. Raises ``RunError`` if there is none."""
        dense = list(_layers_of_type(self, nn.Linear).values())
        if not dense:
            raise RunError(
                f"{self.folder.path}: the network has no dense layer, so its last hidden layer is unknown: only --what "
                "classes and --what layers work for it"
            )
        last: nn.Linear = dense[-1]
        return last

    def hidden(self, pixels: Tensor) -> Tensor:
        """Return the values of the last hidden layer, float (N, D), for pixels (N, C, H, W), uint8 or in [0, 1].

        A linear network has no hidden layer. For it, the result is the normalised pixels.
        """
        # The last hidden layer is the input of the last dense layer, so a hook on that layer records it. The copies
        # stay as they are if a layer changes its input in place.
        inputs: list[Tensor] = []
        handle = self.last_dense.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(1).clone()))
        try:
            with torch.no_grad():
                for batch in pixels.split(_BATCH_SIZE):
                    self.network(batch)
        finally:
            handle.remove()
        return torch.cat(inputs)

    def scores(self, pixels: Tensor) -> Tensor:
        """Return the confidences, float (N, K) in [0, 1]; as in ``digitlab predict``, with test-time augmentation."""
        with torch.no_grad():
            batches = pixels.split(_BATCH_SIZE)
            return torch.cat([self.classifier.loss.scores(self.classifier(batch)) for batch in batches])


def read_explained_run(folder: RunFolder) -> ExplainedRun:
    """Load the checkpoint that the run tested, and its data.

    Raises ``ConfigError`` if the folder is not a run folder, ``RunError`` for a missing or damaged checkpoint, and
    ``DataError`` if the data set is missing.
    """
    classifier = load_classifier(folder, folder.read_tested_checkpoint())
    data = load_data(folder)
    require_fit(classifier, data)
    data.setup()
    return ExplainedRun(
        folder=folder, classifier=classifier, network=PixelNetwork(classifier), data=data,
        split="test" if folder.is_tested else "val",
    )  # fmt: skip


def _layers_of_type(run: ExplainedRun, kind: type[Any]) -> dict[str, Any]:
    """Return the layers of the type ``kind`` by name, in the order in which the network calls them."""
    network = run.network.network
    layers = {layer.name: network.get_submodule(layer.name) for layer in layers_of(network, run.image_shape)}
    return {name: layer for name, layer in layers.items() if isinstance(layer, kind)}


def outputs_of(run: ExplainedRun, layers: dict[str, nn.Conv2d], pixels: Tensor) -> dict[str, Tensor]:
    """Return the outputs of ``layers``, float (N, F, h, w) for F filters, by name, for pixels (N, C, H, W)."""
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: outputs.__setitem__(name, output.detach().clone())

    handles = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            run.network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
