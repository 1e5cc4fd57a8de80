"""``FastCNN``: a convolutional network that learns in few epochs, as its first layer is fitted to images beforehand.

N images, C channels, H, W, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from digitlab.config.schema import Fraction, PositiveFloat, PositiveInt, checked
from digitlab.core.errors import ConfigError

# Of the mean variance of a patch's pixels: directions that hardly vary are noise, and not blown up.
_LEAST_VARIANCE = 5e-4
# Patches of so many images at a time are held in memory.
_IMAGES_AT_ONCE = 200


class Whitening(nn.Module):
    """A convolution without padding whose outputs are uncorrelated, of variance 1, on the images it is fitted to.

    Its 2 C ``size``² filters are the eigenvectors of the covariance of patches, each divided by the root of its
    eigenvalue (Jordan, 2024, after Page, 2019), and the same with the other sign, so that an activation that drops
    negative values loses nothing. They stay as they are; a bias is learnt. Before ``fit_to`` a filter picks one pixel.
    """

    filters: Tensor

    def __init__(self, *, channels: int, size: int) -> None:
        super().__init__()
        pixels = torch.eye(channels * size**2).view(-1, channels, size, size)
        self.register_buffer("filters", torch.cat([pixels, -pixels]))
        self.bias = nn.Parameter(torch.zeros(len(self.filters)))
        self.channels = len(self.filters)

    @torch.no_grad()
    def fit_to(self, images: Tensor) -> None:
        """Make the filters those of the patches of ``images``, float (N, C, H, W)."""
        pairs, channels, size, _ = self.filters.shape
        variances, directions = torch.linalg.eigh(_covariance(images, size))
        least = _LEAST_VARIANCE * variances.mean()
        # Images that are all alike have no directions; their filters stay.
        if least > 0:
            whitened = (directions / (variances + least).sqrt()).mT.reshape(pairs // 2, channels, size, size)
            self.filters.copy_(torch.cat([whitened, -whitened]))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.filters, self.bias)


def _covariance(images: Tensor, size: int) -> Tensor:
    """Of the pixels of all square patches of ``images`` (N, C, H, W), float64 (C · size², C · size²)."""
    count, total, products = 0, torch.tensor(0.0), torch.tensor(0.0)
    for part in images.split(_IMAGES_AT_ONCE):
        windows = part.double().unfold(2, size, 1).unfold(3, size, 1)
        patches = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        count, total, products = count + len(patches), total + patches.sum(0), products + patches.mT @ patches
    mean = total / count
    return products / count - mean.outer(mean)


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that learns a shift alone: what follows undoes a scale, or is as steep without."""

    def __init__(self, channels: int, *, momentum: float) -> None:
        super().__init__(channels, momentum=momentum)
        # A buffer, and not left out: the kernels of some devices need both.
        del self.weight
        self.register_buffer("weight", torch.ones(channels))


class FastCNN(nn.Module):
    """Whitening, GELU, and for each of ``widths`` a block; the largest value of each map, a dense layer without bias.

    A block is 3 x 3 convolution, max pooling, batch norm, GELU, convolution, batch norm, GELU. Its convolutions hand
    their channels on unchanged at first, as far as they have outputs for them; its norms learn no scale. With the
    defaults it is the network of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
    Logits are multiplied by ``logit_scale``; ``norm_momentum`` is the share that a mini-batch has in the statistics
    of the norms.
    """

    @checked
    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        widths: Annotated[list[PositiveInt], Field(min_length=1)],
        patch_size: PositiveInt = 2,
        logit_scale: PositiveFloat = 0.1,
        norm_momentum: Fraction = 0.4,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        smallest = 2 ** len(widths) + patch_size - 1
        if min(height, width) < smallest:
            need = f"{len(widths)} blocks and patches of {patch_size} pixels need images of {smallest} x {smallest}"
            raise ConfigError("widths", widths, f"{need} or more, and those of this data set have {height} x {width}")
        self.whitening = Whitening(channels=channels, size=patch_size)
        layers: list[nn.Module] = [nn.GELU()]
        channels = self.whitening.channels
        for own in widths:
            layers += [_convolution(channels, own), nn.MaxPool2d(2), ShiftNorm(own, momentum=norm_momentum)]
            layers += [nn.GELU(), _convolution(own, own), ShiftNorm(own, momentum=norm_momentum), nn.GELU()]
            channels = own
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(channels, classes, bias=False)
        self.logit_scale = logit_scale
        self.to(memory_format=torch.channels_last)

    def fit_to(self, images: Tensor) -> None:
        """Fit the whitening to training images (N, C, H, W), normalised; for the beginning of a training."""
        self.whitening.fit_to(images)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised, to logits (N, K)."""
        maps = self.features(self.whitening(images))
        logits: Tensor = self.logit_scale * self.output(maps.amax((2, 3)))
        return logits


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """3 x 3 without bias (the norm would subtract it); its first filters pass a channel on, the others are random."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:channels_in])
    return convolution
