"""Makes the network of a run ready for export: a module from pixels to probabilities, and its graph of operations.

ONNX models, PyTorch programs and the demo page contain the graph; a file of weights contains the weights of the module.
N images, C channels, H rows, W columns, K classes, U units of the last hidden layer.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from digitlab.core.errors import RunError
from digitlab.data.normalise import Normalise
from digitlab.training.classifier import Classifier
from digitlab.training.test_time_augmentation import augmented_views

Pixels = Literal["float32", "uint8"]  # the dtype of the images that an exported network takes


class ExportedNetwork(nn.Module):
    """The network of a classifier in float32 and evaluation mode, from the normalisation to the probabilities.

    It uses the averaged weights if there are any, and test-time augmentation if the run had it, like the classifier.
    The weights are copies. With ``hidden``, it also returns the units of the last hidden layer, which the demo page
    draws. They are the input of the last dense layer. They are left out if the network does not end with a dense layer,
    or if this is its only layer with weights.
    """

    def __init__(self, classifier: Classifier, *, hidden: bool = False) -> None:
        super().__init__()
        facts = classifier.facts
        self.normalise = Normalise(image_shape=facts.shape, mean=facts.mean, std=facts.std).float()
        # In the usual memory format, because torch.export.save warns about others.
        network = copy.deepcopy(classifier.evaluated_network).float()
        self.network = network.to(memory_format=torch.contiguous_format).requires_grad_(False)
        self.loss, self.tta = classifier.loss, classifier.tta
        self.last_layer: nn.Linear | None = None
        self.eval()
        if hidden:
            self.last_layer = _last_layer(self.network, facts.shape)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images (N, C, H, W), uint8 or float in [0, 1], to probabilities (N, K), and units (N, U) if asked."""
        units: list[Tensor] = []
        # With test-time augmentation, the logits are a weighted sum over several views of each image, such as mirrored
        # ones. Without it, the only view is the image itself.
        views = augmented_views(self.normalise(images), self.tta)
        if self.last_layer is None:
            outputs = [weight * self.network(view) for view, weight in views]
        else:
            hook = self.last_layer.register_forward_pre_hook(lambda _, inputs: units.append(inputs[0]))
            try:
                outputs = [weight * self.network(view) for view, weight in views]
            finally:
                hook.remove()
        logits = torch.stack(outputs).sum(0) if len(outputs) > 1 else outputs[0]
        scores = self.loss.scores(logits)
        # The first view is always the image itself, and the page shows the units of that.
        return (scores, units[0].flatten(1)) if units else scores


@torch.no_grad()
def _last_layer(network: nn.Module, shape: tuple[int, int, int]) -> nn.Linear | None:
    """Return the dense layer that computes last, unless it is the only layer with weights."""
    # A network can call its layers in another order than it lists them, so compute once and note the calls.
    called: list[nn.Module] = []
    layers = [each for each in network.modules() if next(each.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(lambda module, *_: called.append(module)) for layer in layers]
    try:
        network(torch.zeros(1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    last = called[-1] if len(called) > 1 else None
    return last if isinstance(last, nn.Linear) else None


def trace(network: ExportedNetwork, shape: tuple[int, int, int], *, pixels: Pixels) -> torch.export.ExportedProgram:
    """Return the network as a graph for any number of images (``torch.export``).

    Raises ``RunError`` if a graph cannot express the network, for example a loop whose length depends on the values of
    an image.
    """
    # Two images: with one, torch would fix the number of images to one.
    example = torch.zeros(2, *shape, dtype=getattr(torch, pixels))
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
    except Exception as error:  # torch raises many types, and a user's own network can raise any type
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        name = type(network.network).__name__
        advice = "digitlab export --to safetensors writes its weights"
        raise RunError(f"{name}: torch.export can't express this network as a graph: {reason} ({advice})") from error
