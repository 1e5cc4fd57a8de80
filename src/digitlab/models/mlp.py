"""Dense networks: ``Linear`` without a hidden layer, and ``MLP`` with any number of them."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from digitlab.config.schema import PositiveFloat, PositiveInt, Rate, checked
from digitlab.core.errors import ConfigError
from digitlab.models.layers import ACTIVATIONS, Activation, Init, initialise


class Linear(nn.Module):
    """One dense layer from the pixels to the logits (softmax regression, if the loss is cross-entropy).

    ``init`` and ``init_scale`` are explained in ``layers.initialise``.
    """

    @checked
    def __init__(
        self, *, image_shape: tuple[int, int, int], classes: int, init: Init = "torch", init_scale: PositiveFloat = 1.0
    ) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(image_shape), classes)
        initialise(self, init=init, scale=init_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, float (N, C, H, W), to logits (N, K)."""
        logits: Tensor = self.output(images.flatten(1))
        return logits


class MLP(nn.Module):
    """Dense hidden layers with ``hidden`` units each, followed by a dense layer to the logits.

    A hidden layer is: dense → batch norm (with ``batch_norm``) → activation → dropout with probability ``dropout``.
    ``activation`` is one name for all hidden layers, or a list with one name for each. A layer before batch norm has no
    bias, because batch norm would subtract it again. ``layers.initialise`` explains ``init`` and ``init_scale``.

    Raises:
        ConfigError: ``activation`` is a list and does not have as many entries as ``hidden``.
    """

    @checked
    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Annotated[list[PositiveInt], Field(min_length=1)],
        activation: Activation | list[Activation] = "relu",
        dropout: Rate = 0.0,
        batch_norm: bool = False,
        init: Init = "torch",
        init_scale: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        activations = activation if isinstance(activation, list) else [activation] * len(hidden)
        if len(activations) != len(hidden):
            raise ConfigError("activation", activation, f"must be one name, or {len(hidden)} for model.hidden={hidden}")
        layers: list[nn.Module] = []
        fan_in = math.prod(image_shape)
        for units, name in zip(hidden, activations, strict=True):
            layers.append(nn.Linear(fan_in, units, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(ACTIVATIONS[name]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            fan_in = units
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(fan_in, classes)
        initialise(self, init=init, scale=init_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, float (N, C, H, W), to logits (N, K)."""
        features = images.flatten(1)
        # A loop instead of self.hidden(features): in a small network, one more module call takes measurable time.
        for layer in self.hidden:
            features = layer(features)
        logits: Tensor = self.output(features)
        return logits
