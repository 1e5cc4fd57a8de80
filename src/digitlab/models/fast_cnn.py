"""``FastCNN``: a convolutional network that learns in few epochs; its first layer is fitted to images before training.

Shapes: N images, C channels, H rows, W columns, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from digitlab.config.schema import Fraction, PositiveFloat, PositiveInt, checked
from digitlab.core.errors import ConfigError

# This share of the mean variance is added to each variance. Otherwise whitening would amplify directions that hardly
# vary, which are noise.
_VARIANCE_OFFSET = 5e-4
# The covariance is computed for this many images at a time, because their patches need several times their memory.
_IMAGES_AT_ONCE = 200


class Whitening(nn.Module):
    """A convolution without padding whose outputs are uncorrelated and have variance 1 on the images it was fitted to.

    ``size`` is the side of a filter in pixels. A patch is the part of an image that a filter covers at one position.

    The first C · ``size``² filters are the eigenvectors of the covariance matrix of patches, each divided by the square
    root of its eigenvalue (Jordan, 2024, after Page, 2019). The other half are the same filters negated, so that no
    information is lost in an activation that drops negative values. The filters are not trained, only a bias. Before
    ``fit_to``, each filter returns one pixel of the patch, or that pixel negated.
    """

    filters: Tensor
    # Training does not change these buffers, so ``layers.statistics_of`` leaves them out.
    constant_buffers = ("filters",)

    def __init__(self, *, channels: int, size: int) -> None:
        super().__init__()
        pixels = torch.eye(channels * size**2).view(-1, channels, size, size)
        self.register_buffer("filters", torch.cat([pixels, -pixels]))
        self.bias = nn.Parameter(torch.zeros(len(self.filters)))
        self.channels = len(self.filters)

    @torch.no_grad()
    def fit_to(self, images: Tensor) -> None:
        """Compute the filters from the patches of ``images``, float (N, C, H, W).

        If all patches are equal, there is no variance to divide by, and the filters stay as they are.
        """
        filters, channels, size, _ = self.filters.shape
        # The eigenvectors are the columns of ``directions``; each eigenvalue is the variance in its direction.
        variances, directions = torch.linalg.eigh(_covariance(images, size))
        offset = _VARIANCE_OFFSET * variances.mean()
        if offset > 0:
            whitened = (directions / (variances + offset).sqrt()).mT.reshape(filters // 2, channels, size, size)
            self.filters.copy_(torch.cat([whitened, -whitened]))

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (N, C, H, W), to (N, 2 C · ``size``², H - ``size`` + 1, W - ``size`` + 1)."""
        return nn.functional.conv2d(images, self.filters, self.bias)


def _covariance(images: Tensor, size: int) -> Tensor:
    """Return the covariance matrix of all patches, C · size² values each, of ``images`` (N, C, H, W), in float64."""
    count, total, products = 0, torch.tensor(0.0), torch.tensor(0.0)
    for part in images.split(_IMAGES_AT_ONCE):
        # (N, C, rows, columns, size, size): the patch at each position of each image.
        windows = part.double().unfold(2, size, 1).unfold(3, size, 1)
        # One row for each patch, in the order of a filter's weights: (patches, C · size²).
        patches = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        count, total, products = count + len(patches), total + patches.sum(0), products + patches.mT @ patches
    mean = total / count
    # E[x xᵀ] - E[x] E[x]ᵀ. The difference of large numbers is exact enough in float64.
    return products / count - mean.outer(mean)


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that learns a shift but no scale, which the network does not need.

    The next batch norm would undo a scale, which would otherwise only change the steepness of the GELU.
    """

    constant_buffers = ("weight",)

    def __init__(self, channels: int, *, momentum: float) -> None:
        super().__init__(channels, momentum=momentum)
        # The scale is a buffer of ones and not None, because the kernels of some devices need a weight and a bias.
        del self.weight
        self.register_buffer("weight", torch.ones(channels))


class FastCNN(nn.Module):
    """Whitening and GELU, one block for each of ``widths``, global max pooling, and a dense layer without bias.

    A block is convolution, max pooling, batch norm, GELU, convolution, batch norm, GELU; its convolutions are 3 x 3 and
    have as many outputs as ``widths`` says. Before training, each convolution copies its input channels to its first
    outputs, as far as it has outputs for them. With the defaults of ``conf/model/fast_cnn.yaml`` it is the network of
    Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024). ``patch_size`` is the side of the whitened patches
    in pixels, logits are multiplied by ``logit_scale``, and ``norm_momentum`` is the weight of a mini-batch in the
    running statistics of batch norm.

    Raises:
        ConfigError: images are too small for this many blocks.
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
        # The whitening makes images ``patch_size`` - 1 pixels smaller, and each block halves them.
        min_side = 2 ** len(widths) + patch_size - 1
        if min(height, width) < min_side:
            need = f"{len(widths)} blocks and patches of {patch_size} pixels need images of {min_side} x {min_side}"
            raise ConfigError("widths", widths, f"{need} or more, and those of this data set have {height} x {width}")
        self.whitening = Whitening(channels=channels, size=patch_size)
        layers: list[nn.Module] = [nn.GELU()]
        channels = self.whitening.channels
        for outputs in widths:
            layers += [_convolution(channels, outputs), nn.MaxPool2d(2), ShiftNorm(outputs, momentum=norm_momentum)]
            layers += [nn.GELU(), _convolution(outputs, outputs), ShiftNorm(outputs, momentum=norm_momentum), nn.GELU()]
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(channels, classes, bias=False)
        self.logit_scale = logit_scale
        self.to(memory_format=torch.channels_last)

    def fit_to(self, images: Tensor) -> None:
        """Fit the whitening layer to normalised training images, float (N, C, H, W), before the first update."""
        self.whitening.fit_to(images)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, float (N, C, H, W), to logits (N, K)."""
        maps = self.features(self.whitening(images))
        logits: Tensor = self.logit_scale * self.output(maps.amax((2, 3)))
        return logits


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that copies its input channels to its first outputs; its other filters are random.

    It has no bias, because the batch norm after it would subtract it again.
    """
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:channels_in])
    return convolution
