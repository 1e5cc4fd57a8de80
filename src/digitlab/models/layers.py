"""Parts that the networks share: activations, initial weights, and what other packages ask networks for.

These are a part that is fitted to images before the first update (``FittedToImages``), the statistics that training
changes (``statistics_of``), and evaluation mode for a while (``evaluating``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

Activation = Literal["relu", "tanh", "sigmoid", "gelu"]
Init = Literal["torch", "glorot", "he", "normal", "uniform", "zeros"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


@runtime_checkable
class FittedToImages(Protocol):
    """A network with a part that is computed from training images before the first update; ``training.setup`` calls it.

    The results of ``fit_to`` must be parameters or buffers. Checkpoints then contain them, and neither resuming nor
    evaluating calls ``fit_to`` again.
    """

    def fit_to(self, images: Tensor) -> None:
        """Compute this part from ``images``, normalised float (N, C, H, W).

        There are at most a few thousand images; they are the same in every run with the same split.
        """


def statistics_of(network: nn.Module) -> list[Tensor]:
    """Return the floating-point buffers that training changes, such as the running mean of a batch norm.

    With several processes (DDP), ``training`` averages them over the processes. A module names the buffers that do not
    change in the class attribute ``constant_buffers``.
    """
    return [
        buffer
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point() and name not in getattr(module, "constant_buffers", ())
    ]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set all modules of ``network`` to evaluation mode inside the with block; then each gets its former mode again.

    ``network.train(mode)`` would give all modules the same mode, but a user's network may keep some of them in
    evaluation mode during training, such as a batch norm whose statistics shall not change.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def initialise(network: nn.Module, *, init: Init, scale: float) -> None:
    """Draw new weights for every linear and convolutional layer of ``network`` from PyTorch's global generator.

    ``torch`` keeps the weights that the layers were constructed with. ``glorot`` is U(±sqrt(6 / (fan_in + fan_out)))
    (Glorot and Bengio, 2010), ``he`` is N(0, 2 / fan_in) (He et al., 2015), ``normal`` is N(0, 1), ``uniform`` is U(0,
    1), and ``zeros`` is 0; all of these set biases to 0. Finally, the weights are multiplied by ``scale``.
    """
    for layer in network.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        match init:
            case "glorot":
                nn.init.xavier_uniform_(layer.weight)
            case "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            case "normal":
                nn.init.normal_(layer.weight)
            case "uniform":
                nn.init.uniform_(layer.weight)
            case "zeros":
                nn.init.zeros_(layer.weight)
        layer.weight.data.mul_(scale)
        if init != "torch" and layer.bias is not None:
            nn.init.zeros_(layer.bias)
