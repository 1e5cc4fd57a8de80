"""Refuses networks that fused calls would train in another way than eager steps do.

A fused call is compiled, captured as a CUDA graph, or both. It executes a copy of the network with other tensors, and
it draws no random numbers: dropout masks are its inputs (``dropout_masks``). ``FusedUpdates`` uses this module for solo
runs. All networks of digitlab can be fused. A network of the user's own may do what a call cannot imitate, and then the
run trains eagerly.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from digitlab.core.abilities import abilities
from digitlab.engine.aot_cache import CompilerError
from digitlab.engine.dropout_masks import is_dropout, mask_layers, replace_dropout

# Batch norm needs two images or more. Other dimensions of values are rarely 3, so it tells that of the images apart.
_IMAGES = 3


def require_fusable(network: nn.Module, image_shape: Sequence[int]) -> None:
    """Raise ``CompilerError`` if a fused call would not train ``network`` on images (C, H, W) as an eager step does.

    The network is as it will be during training. Neither it nor the state of a random generator changes.
    """
    refuse_hooks(network)
    if not all(parameter.requires_grad for parameter in network.parameters()):
        # A call computes gradients for all parameters, so it would train these, too.
        raise CompilerError("some parameters of the network are frozen")
    if not all(module.training for module in network.modules()):
        # A call sets all modules to training mode, so it would change the statistics of a batch norm, for example.
        raise CompilerError("parts of the network stay in evaluation mode")
    if len({layer.p for layer in network.modules() if is_dropout(layer)}) > 1:
        # ``DropoutMasks`` draws all masks of a network with one rate.
        raise CompilerError("the dropout layers of the network have different rates")
    _refuse_random_numbers(network, image_shape)


def refuse_hooks(network: nn.Module) -> None:
    """Raise ``CompilerError`` if ``network`` has hooks: calls would not call them, or would not let them change values.

    Hooks can be added during training, for example by a callback, so this is checked again before calls are made.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        raise CompilerError("forward hooks watch the layers")
    of_layers = (module._backward_hooks or module._backward_pre_hooks for module in network.modules())
    of_weights = (weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in network.parameters())
    if any(of_layers) or any(of_weights):
        raise CompilerError("hooks watch the gradients")


def _refuse_random_numbers(network: nn.Module, image_shape: Sequence[int]) -> None:
    """Raise ``CompilerError`` if ``network`` draws random numbers in training that masks cannot take the place of."""
    # A copy, because a pass in training mode changes the statistics of a batch norm.
    copy = replace_dropout(network)
    layers = [layer for _, layer in mask_layers(copy)]
    calls: list[tuple[nn.Module, Tensor]] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, arguments: calls.append((layer, arguments[0])))
    try:
        draws = _draws_random_numbers(copy, image_shape)
    except Exception as error:  # the user's code can raise anything
        raise CompilerError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if draws:
        raise CompilerError("the network draws random numbers besides those of nn.Dropout")
    # A layer has one mask. The masks are listed like the layers but drawn in the order of the calls.
    if [layer for layer, _ in calls] != layers:
        raise CompilerError("the network does not call each dropout layer once, in the order in which it lists them")
    # A mask has a row for each image. ``nn.Dropout`` draws in the order in which values lie in memory, and masks are
    # drawn for contiguous values.
    if not all(len(values) == _IMAGES and values.is_contiguous() for _, values in calls):
        raise CompilerError(
            "a dropout layer gets values that are not contiguous, or do not have one row for each image"
        )


def _draws_random_numbers(network: nn.Module, image_shape: Sequence[int]) -> bool:
    """Return whether a forward pass of ``network`` changes the state of a generator of torch; then set it back."""
    parameter = next(network.parameters())
    generators = {torch.default_generator, abilities(parameter.device).default_generator(parameter.device)}
    before = {generator: generator.get_state() for generator in generators}
    try:
        with torch.no_grad():
            network(torch.zeros(_IMAGES, *image_shape, dtype=parameter.dtype, device=parameter.device))
        return any(not torch.equal(generator.get_state(), state) for generator, state in before.items())
    finally:
        for generator, state in before.items():
            generator.set_state(state)
