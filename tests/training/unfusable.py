"""Users' networks for ``test_fusable``: ``Fusable``, and variants that calls of several updates cannot imitate."""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class Fusable(nn.Module):
    """Three dense layers with dropout between them."""

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(math.prod(image_shape), 8), nn.Linear(8, 8)
        self.early, self.late = nn.Dropout(0.5), nn.Dropout(0.5)
        self.output = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.early(self.first(images.flatten(1)).relu())
        logits: Tensor = self.output(self.late(self.second(hidden).relu()))
        return logits


class PartlyFrozen(Fusable):
    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(image_shape=image_shape, classes=classes)
        self.first.requires_grad_(False)


class KeepsStatistics(Fusable):
    """Has a batch norm that stays in evaluation mode."""

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(image_shape=image_shape, classes=classes)
        self.early = nn.Sequential(nn.BatchNorm1d(8).eval(), nn.Dropout(0.5))


class TwoRates(Fusable):
    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(image_shape=image_shape, classes=classes)
        self.late = nn.Dropout(0.1)


class TwoNames(Fusable):
    """Has one dropout layer under two names."""

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(image_shape=image_shape, classes=classes)
        self.late = self.early


class OwnDropout(nn.Dropout):
    """Also drops in evaluation mode."""

    def forward(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.p)


class DropsInEvaluation(Fusable):
    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(image_shape=image_shape, classes=classes)
        self.late = OwnDropout(0.5)


class OtherOrder(Fusable):
    """Calls its dropout layers in another order than it lists them."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.late(self.first(images.flatten(1)).relu())
        logits: Tensor = self.output(self.early(self.second(hidden).relu()))
        return logits


class CalledTwice(Fusable):
    """Calls one dropout layer twice and the other one never."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.early(self.first(images.flatten(1)).relu())
        logits: Tensor = self.output(self.early(self.second(hidden).relu()))
        return logits


class Transposed(Fusable):
    """Its dropout layers get transposed values, whose memory has another order."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.early(self.first(images.flatten(1)).relu().T).T
        logits: Tensor = self.output(self.late(self.second(hidden).relu().T).T)
        return logits


class DropsWeights(Fusable):
    """Drops the same values for all images."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1)) + self.early(self.first.bias.unsqueeze(0))
        logits: Tensor = self.output(self.late(self.second(hidden.relu()).relu()))
        return logits


class Functional(Fusable):
    """Drops values without a layer."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.dropout(self.first(images.flatten(1)).relu(), 0.5, self.training)
        logits: Tensor = self.output(self.late(self.second(self.early(hidden)).relu()))
        return logits
