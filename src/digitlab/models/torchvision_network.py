"""``TorchvisionNetwork``: well-known networks of the package torchvision, with a first layer for small images.

``conf/model/torchvision.yaml`` gives it its name and defaults. Torchvision designed these networks for ImageNet's 224 x
224 pixels.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from digitlab.config.schema import checked

Name = Literal["resnet18", "resnet34", "mobilenet_v3_small"]


class TorchvisionNetwork(nn.Module):
    """A network of torchvision with random initial weights: ``resnet18``, ``resnet34`` or ``mobilenet_v3_small``.

    The residual networks are those of He et al. (2016), MobileNetV3 is that of Howard et al. (2019). Their first layers
    reduce an image to a quarter of its width, which would leave too little of 28 or 32 pixels. So the first convolution
    is 3 x 3 with stride 1 here, and the residual networks have no max pooling, as is usual for CIFAR-10. The first
    convolution takes as many channels as the data set has. The last layer is called ``output``, as in all networks of
    digitlab.
    """

    @checked
    def __init__(self, *, image_shape: tuple[int, int, int], classes: int, name: Name = "resnet18") -> None:
        super().__init__()
        make_features = _mobilenet if name.startswith("mobilenet") else _resnet
        self.features, feature_count = make_features(name, image_shape[0])
        self.output = nn.Linear(feature_count, classes)
        layer: Any
        for layer in self.features.modules():
            # An activation in place would overwrite the output of the layer before, which figures may want to show.
            if getattr(layer, "inplace", False):
                layer.inplace = False
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, float (N, C, H, W), to logits (N, K)."""
        logits: Tensor = self.output(self.features(images))
        return logits


def _resnet(name: str, channels: int) -> tuple[nn.Module, int]:
    """Return a residual network without its last layer, and the number of its features."""
    # Imported here: torchvision takes half a second, and most runs use another network.
    from torchvision import models

    network: Any = models.get_model(name, weights=None)
    network.conv1 = _first_convolution(channels, network.conv1.out_channels)
    network.maxpool = nn.Identity()
    feature_count = int(network.fc.in_features)
    network.fc = nn.Identity()
    return network, feature_count


def _mobilenet(name: str, channels: int) -> tuple[nn.Module, int]:
    """Return a MobileNet without its last layer, and the number of its features."""
    from torchvision import models

    network: Any = models.get_model(name, weights=None)
    network.features[0][0] = _first_convolution(channels, network.features[0][0].out_channels)
    feature_count = int(network.classifier[-1].in_features)
    network.classifier[-1] = nn.Identity()
    return network, feature_count


def _first_convolution(channels: int, outputs: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution with stride 1, with the random initial weights that torchvision uses."""
    convolution = nn.Conv2d(channels, outputs, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
