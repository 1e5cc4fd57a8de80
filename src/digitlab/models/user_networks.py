"""Checks and prepares networks that a Python user passes to ``digitlab.train``; ``training`` calls it.

Shapes: N images, C channels, H rows, W columns, K classes.
"""

import copy
import traceback
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from digitlab.core.errors import ConfigError
from digitlab.models.layers import evaluating


def initialise_lazy_layers(network: nn.Module, image_shape: Sequence[int]) -> None:
    """Give layers such as ``nn.LazyLinear`` their weights, by evaluating the network on one image (C, H, W)."""
    if any(is_lazy(tensor) for tensor in [*network.parameters(), *network.buffers()]):
        with torch.no_grad():
            _outputs(network, torch.zeros(1, *image_shape))


def require_logits(network: nn.Module, image_shape: Sequence[int], classes: int) -> None:
    """Raise ``ConfigError`` unless ``network``, on the CPU, has weights and maps images to logits (N, ``classes``).

    The state of torch's random generator does not change.
    """
    name, shape = type(network).__name__, ", ".join(map(str, image_shape))
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            initialise_lazy_layers(network, image_shape)
            logits = _outputs(network, torch.rand(2, *image_shape))
    except Exception as error:  # the user's code can raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}{_position(error)}"
        raise ConfigError("model", name, f"can't take images of shape (N, {shape}): {reason}") from error
    expected = f"must return logits, one float tensor (N, {classes}), for images (N, {shape})"
    if not isinstance(logits, Tensor):
        raise ConfigError("model", name, f"{expected}; it returns a {type(logits).__name__}")
    if tuple(logits.shape) != (2, classes) or not logits.is_floating_point():
        actual = f"{str(logits.dtype).removeprefix('torch.')} {tuple(logits.shape)} for 2 images"
        raise ConfigError("model", name, f"{expected}; it returns {actual}")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError("model", name, "has no weights to train")
    if not _has_gradient(network, image_shape):
        allowed = "its output does not depend on its weights: leave out detach() and torch.no_grad() in forward"
        raise ConfigError("model", name, allowed)


def _has_gradient(network: nn.Module, image_shape: Sequence[int]) -> bool:
    """Return whether torch follows the computation from the weights to the output, as training needs it."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        images = torch.rand(2, *image_shape)
        if _outputs(network, images).requires_grad:
            return True
        # Some networks leave gradients out in evaluation mode only. A copy, because training mode can change buffers.
        return bool(copy.deepcopy(network).train()(images).requires_grad)


def returns_probabilities(network: nn.Module, image_shape: Sequence[int]) -> bool:
    """Return whether the outputs look like those of a softmax: not negative, with a sum of 1.

    ``training`` warns then, because its losses take logits.
    """
    # Four different images. They are not random, so that the state of the random generator does not change.
    pixels = torch.linspace(-1, 1, 4 * int(torch.Size(image_shape).numel())).view(4, *image_shape)
    weight = next(network.parameters())
    with torch.no_grad():
        outputs = _outputs(network, pixels.to(weight.device, weight.dtype))
    return bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), torch.ones_like(outputs[:, 0]), atol=1e-4)


def _outputs(network: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs of ``network`` in evaluation mode; its modules keep their modes."""
    with evaluating(network):
        outputs: Tensor = network(images)
    return outputs


def _position(error: Exception) -> str:
    """Return where in the user's code an error arose: the innermost frame outside torch and this file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    user_frames = [frame for frame in frames if "/torch/" not in frame.filename.replace("\\", "/")]
    return f" ({user_frames[-1].filename}, line {user_frames[-1].lineno})" if user_frames else ""
