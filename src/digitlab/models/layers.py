"""What the networks share: activations by name, schemes of initial weights, and how one is fitted to images first."""

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

Activation = Literal["relu", "tanh", "sigmoid", "gelu"]
Init = Literal["torch", "glorot", "he", "normal", "uniform", "zeros"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


@runtime_checkable
class FittedToImages(Protocol):
    """A network of which a part is computed from training images before the first update.

    What ``fit_to`` computes has to be kept in parameters or buffers: a checkpoint has them, so that neither resuming
    nor evaluating calls it again.
    """

    def fit_to(self, images: Tensor) -> None:
        """``images`` (N, C, H, W), normalised, are the same for each run of a split, some thousand at most."""


def initialise(network: nn.Module, *, init: Init, scale: float) -> None:
    """Draw the weights of every linear and convolutional layer anew, from torch's global generator.

    ``torch`` keeps what the layers' own constructors drew. ``glorot`` is U(±sqrt(6 / (fan_in + fan_out))) (Glorot and
    Bengio, 2010), ``he`` N(0, 2 / fan_in) (He et al., 2015), ``normal`` N(0, 1), ``uniform`` U(0, 1), ``zeros`` 0; all
    of these set biases to 0. Weights are then multiplied by ``scale``.
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
