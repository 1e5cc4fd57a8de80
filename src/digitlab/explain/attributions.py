"""Finds the pixels that speak for a class, by integrated gradients, Grad-CAM and occlusion. ``predictions`` uses it.

The package captum computes them. Each method makes a map: one value for each pixel of an image, which belongs to the
logit of one class, the target. Positive values speak for the class, negative values against it. Shapes: N images, C
channels, H rows, W columns.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from digitlab.explain.network import PixelNetwork

with warnings.catch_warnings():
    # In a notebook without ipywidgets, the progress bars that captum imports, and that are not used here, warn.
    warnings.simplefilter("ignore")
    from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion

# Integrated gradients are an integral over the images between the baseline and the image. It is computed as a sum over
# this many of them, which is exact to about a per cent.
_STEPS = 64
_IMAGES_AT_ONCE = 256  # so many changed images pass through the network at once, which limits the memory
# The side of the occluded square as a share of the image's side, and the distance between two squares.
_OCCLUDED_SHARE, _OCCLUSION_STRIDE = 1 / 7, 2

Method = Callable[[Tensor, Tensor], Tensor]


def integrated_gradients(network: PixelNetwork, pixels: Tensor, targets: Tensor, *, baseline: Tensor) -> Tensor:
    """Return the integrated gradients (Sundararajan et al., 2017), summed over the channels: float (N, H, W).

    ``pixels`` is float (N, C, H, W) in [0, 1], ``targets`` int64 (N,), ``baseline`` (C,) the colour of an image without
    content. The values of an image sum to the difference of the logit between the image and the baseline.
    """
    method: Any = IntegratedGradients(network)
    maps: Tensor = method.attribute(
        pixels, baselines=_image_of(baseline, pixels), target=targets, n_steps=_STEPS,
        # captum requires that a batch holds at least one changed copy of every image.
        internal_batch_size=max(_IMAGES_AT_ONCE, len(pixels)),
    )  # fmt: skip
    return maps.detach().sum(1)


def grad_cam(network: PixelNetwork, pixels: Tensor, targets: Tensor, *, layer: nn.Module) -> Tensor:
    """Return Grad-CAM (Selvaraju et al., 2017) of the convolution ``layer``: float (N, H, W), never negative.

    The map has the size of the outputs of the convolution, and is enlarged to that of the images.
    """
    maps = LayerGradCam(network, layer).attribute(pixels, target=targets, relu_attributions=True)
    assert isinstance(maps, Tensor)
    height, width = pixels.shape[2:]
    return LayerAttribution.interpolate(maps.detach(), (height, width), "bilinear").squeeze(1)


def occlusion(network: PixelNetwork, pixels: Tensor, targets: Tensor, *, baseline: Tensor) -> Tensor:
    """Return how much the logit falls when a square around a pixel has the colour of the baseline: float (N, H, W).

    A pixel gets the mean over the squares that cover it (Zeiler and Fergus, 2014).
    """
    channels, height, width = pixels.shape[1:]
    side = max(2, round(min(height, width) * _OCCLUDED_SHARE))
    stride = min(_OCCLUSION_STRIDE, side)
    with torch.no_grad():
        maps: Tensor = Occlusion(network).attribute(
            pixels, sliding_window_shapes=(channels, side, side), strides=(channels, stride, stride), target=targets,
            baselines=_image_of(baseline, pixels), perturbations_per_eval=max(1, _IMAGES_AT_ONCE // len(pixels)),
        )  # fmt: skip
    return maps.mean(1)


def methods_for(network: PixelNetwork, *, layer: nn.Module | None, baseline: Tensor) -> dict[str, Method]:
    """Return the methods that apply to a network by name; Grad-CAM needs a convolution, ``layer``.

    A method maps pixels (N, C, H, W) and targets (N,) to maps (N, H, W).
    """
    methods: dict[str, Method] = {
        "integrated gradients": lambda pixels, targets: integrated_gradients(
            network, pixels, targets, baseline=baseline
        ),
    }
    if layer is not None:
        methods["Grad-CAM"] = lambda pixels, targets: grad_cam(network, pixels, targets, layer=layer)
    methods["occlusion"] = lambda pixels, targets: occlusion(network, pixels, targets, baseline=baseline)
    return methods


def _image_of(colour: Tensor, pixels: Tensor) -> Tensor:
    """Return an image (1, C, H, W) of one colour (C,), with the size and dtype of ``pixels``."""
    return colour.to(pixels.dtype).view(1, -1, 1, 1).expand(1, *pixels.shape[1:])
