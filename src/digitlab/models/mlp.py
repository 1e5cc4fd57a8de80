"""Dense networks: ``Linear`` (no hidden layer) and ``MLP`` (any number of them)."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from digitlab.config.schema import PositiveFloat, PositiveInt, Rate, checked
from digitlab.core.errors import ConfigError
from digitlab.models.layers import ACTIVATIONS, Activation, Init, initialise


class Linear(nn.Module):
    """One dense layer from the pixels to the logits."""

    @checked
    def __init__(
        self, *, image_shape: tuple[int, int, int], classes: int, init: Init = "torch", init_scale: PositiveFloat = 1.0
    ) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(image_shape), classes)
        initialise(self, init=init, scale=init_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised, to logits (N, K)."""
        logits: Tensor = self.output(images.flatten(1))
        return logits


class MLP(nn.Module):
    """Dense layers of ``hidden`` units each, then one to the logits.

    A hidden layer is dense → batch norm (if asked for) → activation → dropout. ``activation`` is one name for all
    hidden layers or a list of one each. A layer followed by batch norm has no bias: the norm would subtract it.
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
        """Images (N, C, H, W), normalised, to logits (N, K)."""
        features = images.flatten(1)
        # Not self.hidden(features): in a small network's step the call of one more module can be felt.
        for layer in self.hidden:
            features = layer(features)
        logits: Tensor = self.output(features)
        return logits
